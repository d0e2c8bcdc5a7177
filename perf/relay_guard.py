"""The guard of the relay benchmark's Triton: gateway.supervise.guard with perf/models/ beside the service's models.

`python -m perf.relay_guard REPLICA`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from dataclasses import fields
from pathlib import Path

from gateway.settings import load_settings
from gateway.supervise.assets import Assets, find_assets
from gateway.supervise.guard import guard

MODELS = Path(__file__).with_name("models")


class BenchAssets(Assets):
    @property
    def model_repositories(self) -> list[Path]:
        return [*super().model_repositories, MODELS]


def main() -> int:
    settings = load_settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stdout)
    found = find_assets()
    assets = BenchAssets(**{field.name: getattr(found, field.name) for field in fields(found)})
    return asyncio.run(guard(settings, int(sys.argv[1]), assets))


if __name__ == "__main__":
    sys.exit(main())
