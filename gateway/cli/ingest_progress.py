"""How far an ingest is, and how that is said. Pure: knows no service and no terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MIN_RATE_S = 2.0  # a rate over less time says nothing


@dataclass(frozen=True)
class Indexing:
    """One look at the indexing. chunks_done: of files that are done and of those being worked on.

    share: of the bytes, 0..1. elapsed_s: since the first look. busy: name of a file that is worked on, or empty.
    """

    files_done: int
    num_files: int
    chunks_done: int
    share: float
    elapsed_s: float
    busy: str = ""

    def words(self) -> str:
        """`1,240 chunks, 310/s, about 2 min left`; without rate and end while too little is known."""
        told = [f"{self.chunks_done:,} chunk{'' if self.chunks_done == 1 else 's'}"]
        if self.elapsed_s >= MIN_RATE_S and self.chunks_done:
            told.append(f"{self.chunks_done / self.elapsed_s:,.0f}/s")
            if 0 < self.share < 1:
                told.append(f"about {duration(self.elapsed_s * (1 - self.share) / self.share)} left")
        return ", ".join(told)


@dataclass(frozen=True)
class Progress:
    """What a run tells while it works. uploaded: files done, files in all, the last one's name."""

    uploaded: Callable[[int, int, str], None]
    indexed: Callable[[Indexing], None]


def duration(seconds: float) -> str:
    """`40 s`, `5 min`, `3 h`: as coarse as an estimate is."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{round(seconds / 3600)} h"
