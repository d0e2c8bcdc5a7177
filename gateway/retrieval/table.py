"""The vectors of one collection by one embedder, searchable. Pure: no I/O, no clock.

A table is never changed once a generation has it: `with_removed` and `with_added` give the next one, which shares
the append-only buffers. Removed rows stay as dead ones until there are enough of them to copy the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.retrieval.columns import Columns, Ints, Texts, find_rows, id_order, no_columns, text_hash
from gateway.retrieval.gpu_search import GpuSearch
from gateway.retrieval.nearest import Mask, Nearest, VectorRows, Vectors

MAX_MASKS_KEPT = 16
FILE_BITS = 32
MIN_DEAD = 64
MIN_GRAPH = 50_000  # rows; fewer are searched exactly
MAX_LATE = 20_000  # rows beside a graph, searched exactly, before it takes them in
MAX_DEAD_SHARE = 0.2  # of a large table's rows, before the rest is copied and gets a new graph


class NewRow(NamedTuple):
    """A chunk to add. file: its number in the collection's Files; vector: [D], unit length."""

    chunk: int
    epoch: int
    file: int
    heading: str
    ordinal: int
    start: int
    end: int
    page: int
    text: str
    vector: Vectors


@dataclass(frozen=True)
class Table:
    """number: in the lexical index.

    dead: [at least count]; None = all rows live. order: see columns.id_order.
    """

    number: int
    dim: int
    vectors: VectorRows
    columns: Columns = field(default_factory=no_columns)
    texts: Texts = field(default_factory=Texts)
    headings: list[str] = field(default_factory=list)
    heading_numbers: dict[str, int] = field(default_factory=dict)
    num_dead: int = 0
    dead: Mask | None = None
    order: Ints | None = None
    _masks: dict[bytes, tuple[Mask, Mask]] = field(default_factory=dict)  # of files, of rows

    @property
    def count(self) -> int:
        """Rows, dead ones too."""
        return self.vectors.count

    @property
    def num_live(self) -> int:
        return self.count - self.num_dead

    def file_key(self, file: int) -> int:
        """The file in the lexical index, where the numbers of all tables meet."""
        return self.number << FILE_BITS | file

    def find(self, chunk_ids: Sequence[int] | Ints) -> Ints:
        """The live row of each chunk, -1 where there is none. Shapes: [N] -> [N]."""
        rows = find_rows(self.columns.chunk[: self.count], self.order, np.asarray(chunk_ids, np.int64))
        if self.dead is not None:
            rows = np.where(self.dead[rows] & (rows >= 0), -1, rows)
        return rows

    def mask(self, files: Mask | None, key: bytes = b"") -> Mask | None:
        """The rows that may be found: live, and of one of these files (by number; key names them); None = all."""
        if files is None:
            return None if self.dead is None else ~self.dead[: self.count]
        of_files, rows = self._masks.get(key, (None, None))
        if rows is None or of_files is not files:  # attributes change without their table
            rows = files[self.columns.file[: self.count]]
            if self.dead is not None:
                rows &= ~self.dead[: self.count]
            if len(self._masks) >= MAX_MASKS_KEPT:
                self._masks.clear()
            self._masks[key] = (files, rows)
        return rows

    def nearest(self, queries: Vectors, k: int, mask: Mask | None) -> Nearest:
        """Scores and rows, each [len(queries), at most k], best first; -1 where there are no more."""
        return self.vectors.nearest(queries, k, mask)

    def removable(self, limits: npt.NDArray[np.int64]) -> Ints:
        """Live rows older than the limit of their file. Shapes: limits [number of files], an epoch each."""
        is_old = self.columns.epoch[: self.count] < limits[self.columns.file[: self.count]]
        if self.dead is not None:
            is_old &= ~self.dead[: self.count]
        return np.flatnonzero(is_old)

    def with_removed(self, rows: Ints) -> Table:
        """rows: live ones."""
        if not len(rows):
            return self
        dead = np.zeros(len(self.columns.chunk), np.bool_)
        if self.dead is not None:
            dead[: self.count] = self.dead[: self.count]
        dead[rows] = True
        return replace(self, dead=dead, num_dead=self.num_dead + len(rows), _masks={})

    def with_added(self, new: Sequence[NewRow]) -> Table:
        """Appends behind the rows that searches can see; buffers grow by doubling, so adding costs what is added."""
        if not new:
            return self
        start, count = self.count, self.count + len(new)
        columns = self.columns.grown(start, count)
        for row, chunk in enumerate(new, start):
            text = chunk.text.encode()
            self.texts.put(row, text)
            columns.chunk[row] = chunk.chunk
            columns.epoch[row] = chunk.epoch
            columns.text_hash[row] = text_hash(text)
            columns.file[row] = chunk.file
            columns.heading[row] = self._heading(chunk.heading)
            columns.ordinal[row] = chunk.ordinal
            columns.start[row] = chunk.start
            columns.end[row] = chunk.end
            columns.page[row] = chunk.page
        return replace(
            self,
            vectors=self.vectors.with_added(np.stack([chunk.vector for chunk in new])),
            columns=columns,
            dead=_longer(self.dead, start, len(columns.chunk)),
            order=self._next_order(columns.chunk, start, count),
            _masks={},
        )

    @property
    def is_worth_compacting(self) -> bool:
        """For a table that is copied quickly."""
        return self.count < MIN_GRAPH and self.num_dead > max(MIN_DEAD, self.num_live)

    @property
    def is_worn(self) -> bool:
        """Whether `refitted` is due."""
        num_late = self.count - self.vectors.num_in_graph
        return (
            (self.count >= MIN_GRAPH and self.num_dead > MAX_DEAD_SHARE * self.count)
            or (self.vectors.graph is None and self.num_live >= MIN_GRAPH)
            or (self.vectors.graph is not None and num_late >= MAX_LATE)
        )

    def is_off_gpu(self) -> bool:
        """Whether a graph has no copy on the GPU, as after a start from a snapshot."""
        return self.vectors.graph is not None and self.vectors.graph.on_gpu is None

    def refitted(self, num_threads: int, gpu: GpuSearch | None = None) -> Table:
        """The same rows in the form that suits their number; takes minutes for a million.

        Without the dead rows where they are many, and then with other row numbers.
        """
        table = self.compacted() if self.num_dead > MAX_DEAD_SHARE * self.count else self
        if table.num_live < MIN_GRAPH:
            return table
        return replace(table, vectors=table.vectors.in_graph(num_threads, gpu), _masks={})

    def caught_up(self, refitted: Table, now: Table) -> Table:
        """`refitted`, made of this table, with what has happened to it until `now`."""
        if refitted.texts is self.texts:
            late = now.vectors.taken(np.arange(self.count, now.count))
            vectors = refitted.vectors.with_added(late) if len(late) else refitted.vectors
            return replace(now, vectors=vectors, _masks={})
        gone = self.columns.chunk[: self.count][now.is_dead(self.count) & ~self.is_dead(self.count)]
        rows = refitted.find(gone)
        late_rows = self.count + np.flatnonzero(~now.is_dead(now.count)[self.count :])
        return refitted.with_removed(rows[rows >= 0]).with_added([now.row(row) for row in late_rows.tolist()])

    def is_dead(self, count: int) -> Mask:
        """Of the first rows. Shapes: [count]."""
        return np.zeros(count, np.bool_) if self.dead is None else self.dead[:count]

    def row(self, row: int) -> NewRow:
        columns = self.columns
        return NewRow(
            int(columns.chunk[row]),
            int(columns.epoch[row]),
            int(columns.file[row]),
            self.headings[int(columns.heading[row])],
            int(columns.ordinal[row]),
            int(columns.start[row]),
            int(columns.end[row]),
            int(columns.page[row]),
            self.texts[row].decode(),
            self.vectors.taken(np.array([row]))[0],
        )

    def compacted(self) -> Table:
        """The live rows alone, in their order, without a graph."""
        rows = np.flatnonzero(~self.dead[: self.count]) if self.dead is not None else np.arange(self.count)
        columns = self.columns.taken(rows)
        used, renumbered = np.unique(columns.heading, return_inverse=True)
        headings = [self.headings[number] for number in used.tolist()]
        return Table(
            self.number,
            self.dim,
            VectorRows(None, self.vectors.taken(rows), len(rows)),
            columns._replace(heading=renumbered.astype(np.int32)),
            self.texts.taken(rows),
            headings,
            {heading: number for number, heading in enumerate(headings)},
            order=id_order(columns.chunk),
        )

    def _heading(self, heading: str) -> int:
        number = self.heading_numbers.get(heading)
        if number is None:
            number = self.heading_numbers[heading] = len(self.headings)
            self.headings.append(heading)
        return number

    def _next_order(self, ids: Ints, start: int, count: int) -> Ints | None:
        if self.order is None:
            fresh = ids[max(start - 1, 0) : count]
            if bool(np.all(fresh[1:] > fresh[:-1])):
                return None
        return np.argsort(ids[:count], kind="stable")


def new_table(number: int, dim: int) -> Table:
    return Table(number, dim, VectorRows(None, np.empty((0, dim), np.float32), 0))


def _longer(dead: Mask | None, used: int, capacity: int) -> Mask | None:
    """Room for rows that live: whatever lies behind `used` is false already."""
    if dead is None or len(dead) >= capacity:
        return dead
    longer = np.zeros(capacity, np.bool_)
    longer[:used] = dead[:used]
    return longer
