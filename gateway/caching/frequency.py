"""How often a key was asked for lately, in a few bits: a count-min sketch that forgets by halves (TinyLFU)."""

from __future__ import annotations

import hashlib

_ROWS = 4
_MOST = 15  # that a counter tells


class FrequencySketch:
    """num_keys: about as many keys are told apart. Counts fade: after 10 x num_keys of them all are halved."""

    def __init__(self, num_keys: int) -> None:
        self._width = 1 << max(6, (num_keys - 1).bit_length())
        self._rows = [bytearray(self._width) for _ in range(_ROWS)]
        self._num_counted, self._period = 0, 10 * max(num_keys, 1)

    def count(self, key: str) -> int:
        """Returns a number drawn from the key, always the same, by which keys can be sampled."""
        digest = _digest(key)
        places = self._places(digest)
        least = min(row[at] for row, at in zip(self._rows, places, strict=True))
        if least < _MOST:
            for row, at in zip(self._rows, places, strict=True):
                if row[at] == least:  # raise the smallest only: fewer collisions
                    row[at] = least + 1
        self._num_counted += 1
        if self._num_counted >= self._period:
            self.age()
        return int.from_bytes(digest[4 * _ROWS :], "little")

    def drawn(self, key: str) -> int:
        """The number that `count` returns."""
        return int.from_bytes(_digest(key)[4 * _ROWS :], "little")

    def age(self) -> None:
        """Halve all counts."""
        self._num_counted //= 2
        self._rows = [bytearray(count >> 1 for count in row) for row in self._rows]

    def estimate(self, key: str) -> int:
        """At least as often as it was, up to 15."""
        return min(row[at] for row, at in zip(self._rows, self._places(_digest(key)), strict=True))

    def _places(self, digest: bytes) -> list[int]:
        return [
            int.from_bytes(digest[4 * row : 4 * row + 4], "little") & (self._width - 1)
            for row in range(_ROWS)
        ]


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=4 * _ROWS + 4).digest()
