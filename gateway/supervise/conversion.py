"""`python -m gateway.supervise.conversion`: exit 0 when a start will have to convert a checkpoint, else 1.

`make run` asks, so that the conversion's environment is made only for those who need it. Whatever is wrong with a tier
is left for `tidegate up` to say.
"""

from __future__ import annotations

import sys

from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.prepare import is_due
from gateway.settings import Settings, SettingsError, load_settings
from gateway.tier_config import GenerateTier, generate_tiers


def needs_environment(settings: Settings) -> bool:
    """Whether our own environment will be used. An operator's own Python needs no other."""
    if settings.convert_python:
        return False
    return any(_is_due(settings, tier) for tier in generate_tiers(settings))


def _is_due(settings: Settings, tier: GenerateTier) -> bool:
    try:
        return is_due(tier, settings.models_dir)
    except CheckpointError:
        return False


def main() -> int:
    try:
        return 0 if needs_environment(load_settings()) else 1
    except SettingsError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
