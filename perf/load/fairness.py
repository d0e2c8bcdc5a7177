"""Who got how much of what was there. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def jain(shares: Sequence[float]) -> float:
    """Jain's index, (sum x)^2 / (n sum x^2): 1 = all the same, 1/n = one has everything. 1 when nobody has anything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def entitled(demands: Mapping[str, float], capacity: float) -> dict[str, float]:
    """Max-min fair parts of the capacity: nobody more than he asks for, what that leaves goes to the others evenly."""
    left, out = capacity, {}
    by_demand = sorted(demands.items(), key=lambda item: item[1])
    for number, (name, demand) in enumerate(by_demand):
        out[name] = min(demand, left / (len(by_demand) - number))
        left -= out[name]
    return out


def satisfaction(demands: Mapping[str, float], served: Mapping[str, float]) -> dict[str, float]:
    """served / entitled by name, with as much capacity as was served in all; names that asked for nothing left out."""
    due = entitled(demands, sum(served.values()))
    return {name: served.get(name, 0.0) / part for name, part in due.items() if part}
