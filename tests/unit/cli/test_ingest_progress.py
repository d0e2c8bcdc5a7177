"""How far an ingest is, in words."""

from __future__ import annotations

import pytest

from gateway.cli.ingest_progress import Indexing, duration


@pytest.mark.parametrize(
    ("chunks", "share", "elapsed_s", "words"),
    [
        (0, 0.0, 0.5, "0 chunks"),
        (1, 0.5, 0.5, "1 chunk"),
        (1200, 0.25, 4.0, "1,200 chunks, 300/s, about 12 s left"),
        (1200, 1.0, 4.0, "1,200 chunks, 300/s"),
        (1200, 0.0, 4.0, "1,200 chunks, 300/s"),
        (0, 0.0, 60.0, "0 chunks"),
    ],
    ids=["begin", "too early", "under way", "at the end", "nothing read whole yet", "waiting"],
)
def test_rate_and_end_are_told_as_soon_as_they_mean_something(
    chunks: int, share: float, elapsed_s: float, words: str
) -> None:
    assert Indexing(1, 4, chunks, share, elapsed_s).words() == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (59.4, "59 s"), (61, "1 min"), (3600, "60 min"), (5400, "2 h"), (86_400, "24 h")],
)
def test_an_estimate_is_told_as_coarsely_as_it_is(seconds: float, words: str) -> None:
    assert duration(seconds) == words
