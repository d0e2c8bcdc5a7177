"""What is kept of each chunk beside its vector and its words: columns instead of an object each. Pure.

Append-only: a generation sees the first `count` rows and never more, while the single updater writes behind them.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FIRST_CAPACITY = 64

Ints = npt.NDArray[np.int64]


class Columns(NamedTuple):
    """Buffers of one length, a row for each chunk. file, heading: numbers in the lists of the shelf and the table.

    text_hash: equal for equal texts. start, end, page: as in types.Passage.
    """

    chunk: npt.NDArray[np.int64]
    epoch: npt.NDArray[np.int64]
    text_hash: npt.NDArray[np.uint64]
    file: npt.NDArray[np.int32]
    heading: npt.NDArray[np.int32]
    ordinal: npt.NDArray[np.int32]
    start: npt.NDArray[np.int32]
    end: npt.NDArray[np.int32]
    page: npt.NDArray[np.int32]

    def grown(self, used: int, needed: int) -> Columns:
        return columns_of(grown(column, used, needed) for column in self)

    def taken(self, rows: Ints) -> Columns:
        return columns_of(column[rows] for column in self)


DTYPES = ("<i8", "<i8", "<u8", "<i4", "<i4", "<i4", "<i4", "<i4", "<i4")  # of Columns, in order


def columns_of(columns: Iterable[npt.NDArray[Any]]) -> Columns:
    return Columns(*columns)


def no_columns() -> Columns:
    return columns_of(np.empty(0, dtype) for dtype in DTYPES)


def text_hash(text: bytes) -> int:
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


def grown(buffer: npt.NDArray[Any], used: int, needed: int) -> npt.NDArray[Any]:
    """The buffer itself when it has room, else one of at least twice the size with the used rows copied.

    Generations in use keep the old one.
    """
    if needed <= len(buffer):
        return buffer
    larger = np.empty((max(needed, 2 * used, FIRST_CAPACITY), *buffer.shape[1:]), buffer.dtype)
    larger[:used] = buffer[:used]
    return larger


def id_order(ids: Ints) -> Ints | None:
    """Rows sorted by id, of equal ids the later row last; None = they are in that order, as SQL mostly gives them."""
    if len(ids) < 2 or bool(np.all(ids[1:] > ids[:-1])):
        return None
    return np.argsort(ids, kind="stable")


def find_rows(ids: Ints, order: Ints | None, wanted: Ints) -> Ints:
    """The latest row of each wanted id, -1 where there is none. order: `id_order(ids)`. Shapes: [N] -> [N]."""
    if not len(ids):
        return np.full(len(wanted), -1, np.int64)
    places = np.searchsorted(ids, wanted, side="right", sorter=order) - 1
    rows = places if order is None else order[places]
    return np.where((places >= 0) & (ids[rows] == wanted), rows, -1)


class Texts:
    """Texts by row, as UTF-8. The first ones may lie in one blob, such as a mapped file; later ones are appended."""

    def __init__(self, blob: npt.NDArray[np.uint8] | None = None, ends: Ints | None = None) -> None:
        """ends: where each text of the blob ends; the first starts at 0."""
        self._blob = np.empty(0, np.uint8) if blob is None else blob
        self._ends = np.empty(0, np.int64) if ends is None else ends
        self._later: list[bytes] = []

    def __getitem__(self, row: int) -> bytes:
        if row >= len(self._ends):
            return self._later[row - len(self._ends)]
        start = int(self._ends[row - 1]) if row else 0
        return self._blob[start : int(self._ends[row])].tobytes()

    def put(self, row: int, text: bytes) -> None:
        """The next row, or again one that an update which failed midway has left."""
        del self._later[row - len(self._ends) :]
        self._later.append(text)

    def taken(self, rows: Ints) -> Texts:
        """A copy of these rows alone."""
        copy = Texts()
        copy._later = [self[row] for row in rows.tolist()]
        return copy
