"""How often a key was asked for lately, in a few bits: a count-min sketch that forgets by halves (TinyLFU)."""

from __future__ import annotations

import hashlib
import struct

_ROWS = 4
_PLACES = struct.Struct("<4I4x").unpack  # of a digest: a place in each row
_DRAWN = struct.Struct("<16xI").unpack
_MOST = 15  # that a counter tells


class FrequencySketch:
    """num_keys: about as many keys are told apart. Counts fade: after 10 x num_keys of them all are halved."""

    def __init__(self, num_keys: int) -> None:
        self._width = 1 << max(6, (num_keys - 1).bit_length())
        self._rows = tuple(bytearray(self._width) for _ in range(_ROWS))
        self._num_counted, self._period = 0, 10 * max(num_keys, 1)

    def count(self, key: str) -> int:
        """Returns a number drawn from the key, always the same, by which keys can be sampled."""
        digest = _digest(key)
        one, two, three, four = self._rows  # a loop would take twice as long, and every request comes by here
        at, in_two, in_three, in_four = self._places(digest)
        least = min(one[at], two[in_two], three[in_three], four[in_four])
        if least < _MOST:  # raise the smallest only: fewer collisions
            if one[at] == least:
                one[at] = least + 1
            if two[in_two] == least:
                two[in_two] = least + 1
            if three[in_three] == least:
                three[in_three] = least + 1
            if four[in_four] == least:
                four[in_four] = least + 1
        self._num_counted += 1
        if self._num_counted >= self._period:
            self.age()
        return _drawn(digest)

    def drawn(self, key: str) -> int:
        """The number that `count` returns."""
        return _drawn(_digest(key))

    def age(self) -> None:
        """Halve all counts."""
        self._num_counted //= 2
        self._rows = tuple(bytearray(count >> 1 for count in row) for row in self._rows)

    def estimate(self, key: str) -> int:
        """At least as often as it was, up to 15."""
        return min(row[at] for row, at in zip(self._rows, self._places(_digest(key)), strict=True))

    def _places(self, digest: bytes) -> tuple[int, int, int, int]:
        one, two, three, four = _PLACES(digest)
        most = self._width - 1
        return one & most, two & most, three & most, four & most


def _drawn(digest: bytes) -> int:
    (number,) = _DRAWN(digest)
    return int(number)


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode(), digest_size=4 * _ROWS + 4).digest()
