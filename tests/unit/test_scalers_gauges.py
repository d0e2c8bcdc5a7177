"""What scalers read is told from a worker's start: a series that is not there is a failure to them, not a zero."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gateway.app import _queues
from gateway.metrics import Metrics
from gateway.settings import load_settings
from gateway.tiering.tiers import TierBook, builtin_tiers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("tier", ["fast", "deep"])
def test_a_tier_that_nobody_has_asked_has_its_series(tier: str, tmp_path: Path) -> None:
    settings, metrics = load_settings({}, var=tmp_path), Metrics()
    _queues(settings, Redis(), TierBook(builtin_tiers(8, 4)), metrics)
    told = metrics.render().decode()
    scalers = [path.read_text("utf-8") for path in (ROOT / "k8s" / "components").glob("keda*/*.yaml")]
    asked = {
        name for text in scalers for name in re.findall(r"(tidegate_\w+)\{tier=", text) if "total" not in name
    }
    assert asked == {"tidegate_inflight", "tidegate_waiting"}
    for name in asked:
        assert f'{name}{{tier="{tier}"}} 0.0' in told
