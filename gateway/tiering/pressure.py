"""How hard a line of requests is pressed, as one number. Pure."""

from __future__ import annotations

from typing import NamedTuple

SLOTS_TAKEN = 0.4  # of a unit: slots that are all taken start no step, but keep the first one in force


class Bearable(NamedTuple):
    """What makes one unit of pressure. eta_s: expected wait for a slot. lag_s: of the event loop. 0 = not counted."""

    eta_s: float = 5.0
    lag_s: float = 2.0


USUAL = Bearable()


class Reading(NamedTuple):
    """eta_s: of a newcomer. share_in_use: 0..1 of the slots. lag_s: how late the event loop runs; 0 = not known."""

    eta_s: float = 0.0
    share_in_use: float = 0.0
    lag_s: float = 0.0


def pressure_of(reading: Reading, bearable: Bearable) -> float:
    """>= 0; 1.0 = as much as is promised to be borne. The worst of the signals counts, not their sum."""
    return max(
        _units(reading.eta_s, bearable.eta_s),
        _units(reading.lag_s, bearable.lag_s),
        SLOTS_TAKEN * min(max(reading.share_in_use, 0.0), 1.0),
    )


def _units(seconds: float, unit_s: float) -> float:
    return max(seconds, 0.0) / unit_s if unit_s > 0 else 0.0
