"""Raw rows of a load run: one request each, all times in seconds after the run's start on one monotonic clock.

intended: when the schedule wanted it; started: when the generator turned to it; sent: when the request's bytes were
handed to the socket (a new connection may come before that); first, done: first text, end; 0 = never. reads: for every
read that held text, milliseconds after `sent` and how many texts it held.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from pathlib import Path

import msgspec

COMPLETED = ("completed", "cached")


class LoadRow(msgspec.Struct, kw_only=True):
    """outcome: completed, cached, rejected, evicted, failed, or unsent (the generator had no room: the run is void).

    code: the error's, or why it failed. tier: the one that answered, where the answer says it. num_tokens: of the
    answer, by its usage, else its texts. told_s: when its caller heard of its place in line; 0 = never, or the row is
    an old one. queue_s, eta_s: wait in line by the receipt and as it was foretold; -1 = not said. retry_after_s: -1 =
    not said.
    """

    arm: str
    phase: str
    number: int
    source: str
    tenant: str
    priority: str
    is_counted: bool
    intended_s: float
    started_s: float = 0.0
    sent_s: float = 0.0
    told_s: float = 0.0
    first_s: float = 0.0
    done_s: float = 0.0
    status: int = 0
    outcome: str = "failed"
    code: str = ""
    tier: str = ""
    num_tokens: int = 0
    num_keepalives: int = 0
    reads: list[tuple[float, int]] = []
    queue_s: float = -1.0
    eta_s: float = -1.0
    retry_after_s: float = -1.0

    @property
    def is_complete(self) -> bool:
        return self.outcome in COMPLETED

    @property
    def lateness_s(self) -> float:
        """The generator's own: nobody else has a part in it."""
        return self.started_s - self.intended_s

    @property
    def ttft_s(self) -> float:
        """From the intended send: what a caller who meant to ask then has waited."""
        return self.first_s - self.intended_s

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first; 0 for an answer of one."""
        if self.num_tokens < 2 or not self.reads:
            return 0.0
        return (self.reads[-1][0] - self.reads[0][0]) / 1000 / (self.num_tokens - 1)

    @property
    def itl_s(self) -> list[float]:
        """Every gap between texts; those that came in one read have no gap."""
        out: list[float] = []
        for (before_ms, _), (at_ms, count) in zip(self.reads, self.reads[1:], strict=False):
            out += [(at_ms - before_ms) / 1000, *[0.0] * (count - 1)]
        return [0.0] * (self.reads[0][1] - 1) + out if self.reads else out


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LoadRow).decode


def write(path: Path, rows: Iterable[LoadRow]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as file:
        for row in rows:
            file.write(_encode(row) + b"\n")


def read(path: Path) -> list[LoadRow]:
    with gzip.open(path, "rb") as file:
        return [_decode(line) for line in file]
