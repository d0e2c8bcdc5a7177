"""The policy of a worker's own level beside plain LRU, in process, on traces of keys: no service runs.

zipf      ranks of Zipf(1.0)
shifting  the same, but what is asked most changes ten times: another tenth of the ranks moves to the head
scan      Zipf(1.0), and every tenth question is one that nobody asks again
mixed     Zipf(1.0) of entries of many sizes (log-normal, median 4 KiB, from 1 to 64 KiB), each key always its own

The hit rate counts from the first question. capacity: share of the keys that fit, all of one size; of `mixed`, share of
the bytes of all keys, and there the byte hit rate is told too: of the bytes that were asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.caching.local import LocalStore

CAPACITIES = (0.01, 0.03, 0.1, 0.3)
ENTRY_BYTES = 4096
SPREAD = 1.0  # of the logarithm of sizes
LEAST_BYTES, MOST_BYTES = 1024, 65_536
PHASES = 10
SCAN_EVERY = 10

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    num_keys: int = 20_000
    num_asked: int = 200_000


QUICK = Size(num_keys=2_000, num_asked=10_000)


class Lru:
    def __init__(self, max_bytes: int) -> None:
        self._kept: OrderedDict[str, int] = OrderedDict()
        self._left = max_bytes

    def get(self, key: str) -> bool:
        if key not in self._kept:
            return False
        self._kept.move_to_end(key)
        return True

    def put(self, key: str, num_bytes: int) -> None:
        self._kept[key] = num_bytes
        self._left -= num_bytes
        while self._left < 0:
            self._left += self._kept.popitem(last=False)[1]


class Ours:
    def __init__(self, max_bytes: int) -> None:
        self._store: LocalStore[bool] = LocalStore(max_bytes)

    def get(self, key: str) -> bool:
        return self._store.get("t", key) is not None

    def put(self, key: str, num_bytes: int) -> None:
        self._store.put("t", key, True, num_bytes)


def zipf(num_keys: int, count: int, seed: int, exponent: float = 1.0) -> Ranks:
    """Ranks from 0: the most asked one first."""
    weights = 1 / np.arange(1, num_keys + 1) ** exponent
    cumulative = np.cumsum(weights / weights.sum())
    drawn = np.searchsorted(cumulative, np.random.default_rng(seed).random(count))
    return np.minimum(drawn, num_keys - 1).astype(np.int64)


def traces(size: Size) -> dict[str, Iterator[str]]:
    ranks = zipf(size.num_keys, size.num_asked, seed=1)
    phase = np.arange(size.num_asked) * PHASES // size.num_asked
    shifted = (ranks + phase * (size.num_keys // PHASES)) % size.num_keys
    scanned = (f"once {at}" if at % SCAN_EVERY == 0 else str(rank) for at, rank in enumerate(ranks.tolist()))
    return {"zipf": map(str, ranks.tolist()), "shifting": map(str, shifted.tolist()), "scan": scanned}


def mixed_sizes(num_keys: int) -> list[int]:
    """Bytes of each key's entry."""
    drawn = np.random.default_rng(2).lognormal(np.log(ENTRY_BYTES), SPREAD, num_keys)
    return [int(size) for size in np.clip(drawn, LEAST_BYTES, MOST_BYTES)]


def rates(
    store: Lru | Ours, trace: Iterator[str], size_of: Callable[[str], int] = lambda _: ENTRY_BYTES
) -> tuple[float, float]:
    """Share of the questions that were met, and of their bytes."""
    hits = count = bytes_met = bytes_asked = 0
    for key in trace:
        size = size_of(key)
        count, bytes_asked = count + 1, bytes_asked + size
        if store.get(key):
            hits, bytes_met = hits + 1, bytes_met + size
        else:
            store.put(key, size)
    return hits / count, bytes_met / bytes_asked


def run_mixed(size: Size) -> dict[str, dict[str, float]]:
    sizes = mixed_sizes(size.num_keys)
    out: dict[str, dict[str, float]] = {}
    for capacity in CAPACITIES:
        for policy, make in (("lru", Lru), ("ours", Ours)):
            trace = map(str, zipf(size.num_keys, size.num_asked, seed=1).tolist())
            met = rates(make(int(capacity * sum(sizes))), trace, lambda key: sizes[int(key)])
            row = out.setdefault(f"{capacity:g}", {})
            row[policy], row[f"{policy}_bytes"] = met
    return out


def run(size: Size) -> dict[str, Any]:
    """Hit rates by trace, capacity and policy."""
    out: dict[str, Any] = {}
    for capacity in CAPACITIES:
        max_bytes = int(capacity * size.num_keys) * ENTRY_BYTES
        for policy, make in (("lru", Lru), ("ours", Ours)):
            for name, trace in traces(size).items():
                rate, _ = rates(make(max_bytes), trace)
                out.setdefault(name, {}).setdefault(f"{capacity:g}", {})[policy] = rate
    return out | {"mixed": run_mixed(size)}


def show(summary: dict[str, Any]) -> None:
    print("\nhit rate, ours / LRU, by share of the keys that fit")
    for name, rows in summary.items():
        cells = [f"{at}: {row['ours']:.3f} / {row['lru']:.3f}" for at, row in rows.items()]
        print(f"  {name:9} " + "   ".join(cells))
    cells = [
        f"{at}: {row['ours_bytes']:.3f} / {row['lru_bytes']:.3f}" for at, row in summary["mixed"].items()
    ]
    print("  of bytes  " + "   ".join(cells))
