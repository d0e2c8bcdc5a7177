"""One ladder for each tier and priority band, the operator's orders over all of them. No clock, no I/O."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from gateway.errors import InvalidRequest
from gateway.tiering import ladder, pressure
from gateway.tiering.ladder import Ladder, Orders, Rule, Step, in_force
from gateway.tiering.pressure import Bearable, Reading, pressure_of

log = logging.getLogger("tidegate.ladder")

_decode = msgspec.json.Decoder(Orders).decode
BANDS = ("interactive", "standard", "batch")


class Line(NamedTuple):
    """Whoever waits for the same slots in the same band."""

    tier: str
    band: str


class Ladders:
    """A band that waits longer goes down first: `batch` gives up steps while `interactive` is served in full."""

    def __init__(
        self, tiers: Iterable[str], *, bearable: Bearable = pressure.USUAL, rule: Rule = ladder.USUAL
    ) -> None:
        self._bearable = bearable
        self._ladders = {Line(tier, band): Ladder(rule) for tier in tiers for band in BANDS}
        self.orders = Orders()

    def obey(self, body: bytes) -> None:
        """Orders as another worker wrote them. What cannot be read is left alone, with a line in the log."""
        try:
            self.orders = _decode(body).checked()
        except (msgspec.DecodeError, InvalidRequest) as error:
            log.warning("orders for the ladder cannot be read: %s", error)

    def observe(self, readings: Mapping[Line, Reading], now: float) -> None:
        """Take a reading of each line. now: monotonic seconds."""
        for line, reading in readings.items():
            self._ladders[line].update(pressure_of(reading, self._bearable), now)

    def steps(self, tier: str, band: str, floor: str = "") -> list[Step]:
        """What a request of this tier and band gives up, in the ladder's order."""
        return in_force(self._ladders[Line(tier, band)].level, self.orders, floor)

    def lines(self) -> Mapping[Line, Ladder]:
        """For metrics and operators; not to be changed."""
        return self._ladders
