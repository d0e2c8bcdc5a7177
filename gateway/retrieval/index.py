"""The corpus of all tenants in memory, as searchable generations. Pure but for the lexical index's files.

A shelf for each (tenant, collection) holds its files and, for each embedder, a table of vectors. A generation is never
changed once published: searches take the current one without a lock, the single updater builds the next and swaps it
in whole with the lexical view that belongs to it, so a query sees an epoch entirely or not at all.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.retrieval import generation_files, query
from gateway.retrieval.files import Files
from gateway.retrieval.generation_files import Contents
from gateway.retrieval.gpu_search import GpuSearch
from gateway.retrieval.lexical import META, LexicalIndex, LexicalView, Words, link_files
from gateway.retrieval.nearest import Vectors
from gateway.retrieval.query import unit
from gateway.retrieval.shelf import Shelf, Tenants
from gateway.retrieval.snapshot import Draft, SnapshotRefused
from gateway.retrieval.table import NewRow, Table, new_table

if TYPE_CHECKING:
    from gateway.ports import SearchRequest
    from gateway.storage.changes import ChunkRow, FileRow, Tail
    from gateway.types import Scope

Key = tuple[str, str]  # tenant, collection
LEXICAL = "lexical"  # folder in a snapshot


class Placed(NamedTuple):
    """A table and where it stands."""

    tenant_id: str
    collection_id: str
    embedder: str
    table: Table


@dataclass(frozen=True)
class Generation:
    lexical: LexicalView
    epoch: int = 0
    tenants: Tenants = field(default_factory=dict)


class CorpusIndex:
    """The searchable corpus. Any number of threads may search while one applies and another refits."""

    def __init__(self, lexical_folder: Path | None = None) -> None:
        """lexical_folder: where the words are kept while this index lives; None = in memory."""
        self._lexical = LexicalIndex(lexical_folder)
        self._next_number = 1
        self._generation = Generation(self._lexical.view())
        self._updating = threading.Lock()  # searches take none
        self.num_bad = 0  # chunks left out for their vectors
        self.num_changes = 0  # chunks that came or were meant to go, since this object is

    @property
    def epoch(self) -> int:
        return self._generation.epoch

    @property
    def num_chunks(self) -> int:
        return sum(place.table.num_live for place in _tables(self._generation.tenants))

    def search(self, requests: Sequence[SearchRequest]) -> list[bytes | InvalidRequest]:
        """See ports.VectorStore."""
        generation = self._generation
        return query.search(generation.tenants, generation.lexical, requests)

    def embedders(self, scope: Scope) -> list[str]:
        """See ports.VectorStore."""
        shelves = query.shelves_of(self._generation.tenants, scope)
        return sorted({name for shelf in shelves for name in shelf.tables} - {scope.embedder})

    def apply(self, tail: Tail) -> int:
        """Take changes in and publish them as one generation; returns how many vectors were unusable and left out.

        Idempotent and independent of order: a removal takes rows older than itself, a chunk id replaces itself.
        Raises: UpstreamUnavailable when the disk takes no words; then nothing has changed.
        """
        changes = _by_shelf(tail)
        with self._updating:
            self._publish(tail.epoch, changes)
        self.num_changes += len(tail.chunks) + len(tail.removals)
        num_bad = sum(change.num_bad for change in changes.values())
        self.num_bad += num_bad
        return num_bad

    def refit(self, num_threads: int, gpu: GpuSearch | None = None) -> bool:
        """Give the first table that needs it a graph, its copy on the GPU, or fewer dead rows; false: none needs it.

        Takes minutes for a million chunks, while searches and changes go on.
        """
        worn = next((each for each in _tables(self._generation.tenants) if _is_due(each.table, gpu)), None)
        if worn is None:
            return False
        refitted = worn.table.refitted(num_threads, gpu)
        with self._updating:
            self._replace(worn, refitted)
        return True

    def _replace(self, worn: Placed, refitted: Table) -> None:
        old = self._generation
        shelf = old.tenants.get(worn.tenant_id, {}).get(worn.collection_id, Shelf())
        now = shelf.tables.get(worn.embedder)
        if now is None or now.texts is not worn.table.texts:
            return  # emptied and perhaps filled anew in the meantime
        table = worn.table.caught_up(refitted, now)
        shelf = replace(shelf, tables={**shelf.tables, worn.embedder: table})
        shelves = {**old.tenants[worn.tenant_id], worn.collection_id: shelf}
        self._generation = replace(old, tenants={**old.tenants, worn.tenant_id: shelves})

    def _publish(self, epoch: int, changes: Mapping[Key, _Change]) -> None:
        old = self._generation
        tenants = dict(old.tenants)
        try:
            for (tenant_id, collection_id), change in changes.items():
                shelves = dict(tenants.get(tenant_id, {}))
                shelf = self._next_shelf(shelves.pop(collection_id, Shelf()), change)
                if shelf.tables:
                    shelves[collection_id] = shelf
                tenants[tenant_id] = shelves
                if not shelves:
                    del tenants[tenant_id]
            lexical = self._lexical.commit()
        except BaseException:
            self._lexical.rollback()
            raise
        self._generation = Generation(lexical, max(epoch, old.epoch), tenants)

    def adopt(self, other: CorpusIndex) -> None:
        """Publish what another index holds, in place of all that is here."""
        with self._updating:
            self._lexical.close()
            self._lexical, self._next_number = other._lexical, other._next_number
            self.num_bad = other.num_bad
            self._generation = other._generation

    def save(self, draft: Draft) -> None:
        """Fill the draft with the current generation. Changes wait only while files are linked.

        Raises: OSError, UpstreamUnavailable.
        """
        with self._updating:
            generation = self._generation
            contents = Contents(generation.tenants, self._next_number, self.num_bad)
            self._lexical.link_to(draft.folder / LEXICAL)
        draft.epoch = generation.epoch
        draft.num_chunks = sum(place.table.num_live for place in _tables(generation.tenants))
        generation_files.write(contents, draft.folder)

    def load(self, folder: Path, lexical_folder: Path, epoch: int) -> None:
        """Publish what a verified snapshot holds, in place of all that is here.

        lexical_folder: does not exist yet. epoch: of the snapshot. Raises: SnapshotRefused; then nothing has changed.
        """
        try:
            contents = generation_files.read(folder)
            source = folder / LEXICAL
            link_files(source, lexical_folder, (source / META).read_bytes())
            lexical = LexicalIndex(lexical_folder)
            view = lexical.view()
        except (OSError, ValueError, LookupError, RuntimeError, UpstreamUnavailable) as error:
            detail = error.detail if isinstance(error, UpstreamUnavailable) else error
            raise SnapshotRefused(f"{folder.name} cannot be read: {detail}") from error
        num_chunks = sum(place.table.num_live for place in _tables(contents.tenants))
        if view.num_docs != num_chunks:
            raise SnapshotRefused(f"{folder.name} has words of {view.num_docs} chunks, not of {num_chunks}")
        with self._updating:
            self._lexical.close()
            self._lexical, self._next_number = lexical, contents.next_number
            self.num_bad = contents.num_bad
            self._generation = Generation(view, epoch, contents.tenants)

    def close(self) -> None:
        self._lexical.close()

    def _next_shelf(self, shelf: Shelf, change: _Change) -> Shelf:
        """The collection after these changes. The given one stays as it is for searches under way."""
        limits = change.limits(shelf.files)
        replaced = [chunk.id for chunk in change.chunks]
        tables = {name: self._without(table, limits, replaced) for name, table in shelf.tables.items()}
        for chunk in change.chunks:
            shelf.files.number(chunk.file_id, chunk.filename)
        files = shelf.files.updated(change.files)
        for name, chunks in change.by_embedder().items():
            table = tables.get(name) or new_table(self._new_number(), _usual_dim(chunks))
            tables[name] = self._with(table, change.readable(chunks, table.dim), files)
        return Shelf(files, {name: table for name, table in tables.items() if table.num_live})

    def _without(self, table: Table, limits: npt.NDArray[np.int64] | None, replaced: Sequence[int]) -> Table:
        rows = table.find(replaced)
        rows = np.unique(rows[rows >= 0])
        if limits is not None:
            rows = np.union1d(rows, table.removable(limits))
        if not len(rows):
            return table
        if len(rows) == table.num_live:
            self._lexical.remove_table(table.number)
            return new_table(table.number, table.dim)
        self._lexical.remove_chunks(table.number, table.columns.chunk[rows].tolist())
        table = table.with_removed(rows)
        return table.compacted() if table.is_worth_compacting else table

    def _with(self, table: Table, chunks: Sequence[tuple[ChunkRow, Vectors]], files: Files) -> Table:
        numbers = [files.numbers[chunk.file_id] for chunk, _ in chunks]
        self._lexical.add(
            Words(table.number, table.file_key(number), chunk.id, f"{chunk.heading}\n{chunk.text}")
            for number, (chunk, _) in zip(numbers, chunks, strict=True)
        )
        return table.with_added(
            [_new_row(chunk, number, vector) for number, (chunk, vector) in zip(numbers, chunks, strict=True)]
        )

    def _new_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1


@dataclass
class _Change:
    """What a tail says of one collection. removals: file (None = all) -> epoch before which its chunks go."""

    removals: dict[str | None, int] = field(default_factory=dict)
    chunks: list[ChunkRow] = field(default_factory=list)
    files: list[FileRow] = field(default_factory=list)
    num_bad: int = 0

    def limits(self, files: Files) -> npt.NDArray[np.int64] | None:
        """Shapes: [number of files]; None = nothing is removed."""
        if not self.removals:
            return None
        limits = np.full(len(files.ids), self.removals.get(None, 0), np.int64)
        for file_id, epoch in self.removals.items():
            number = files.numbers.get(file_id) if file_id is not None else None
            if number is not None:
                limits[number] = max(limits[number], epoch)
        return limits

    def by_embedder(self) -> dict[str, list[ChunkRow]]:
        """The chunks that stay, each once, in its last version."""
        out: dict[str, list[ChunkRow]] = defaultdict(list)
        for chunk in {chunk.id: chunk for chunk in self.chunks}.values():
            if chunk.epoch >= max(self.removals.get(chunk.file_id, 0), self.removals.get(None, 0)):
                out[chunk.embedder].append(chunk)
        return out

    def readable(self, chunks: Sequence[ChunkRow], dim: int) -> list[tuple[ChunkRow, Vectors]]:
        """Those with a usable vector; counts the others."""
        out = []
        for chunk in chunks:
            try:
                out.append((chunk, unit(np.frombuffer(chunk.vector, "<f4"), dim)))
            except (InvalidRequest, ValueError):
                self.num_bad += 1
        return out


def _tables(tenants: Tenants) -> Iterator[Placed]:
    for tenant_id, shelves in tenants.items():
        for collection_id, shelf in shelves.items():
            for embedder, table in shelf.tables.items():
                yield Placed(tenant_id, collection_id, embedder, table)


def _by_shelf(tail: Tail) -> dict[Key, _Change]:
    changes: dict[Key, _Change] = defaultdict(_Change)
    for removal in tail.removals:
        epochs = changes[removal.tenant_id, removal.collection_id].removals
        epochs[removal.file_id] = max(removal.epoch, epochs.get(removal.file_id, 0))
    for chunk in tail.chunks:
        changes[chunk.tenant_id, chunk.collection_id].chunks.append(chunk)
    for file in tail.files:
        changes[file.tenant_id, file.collection_id].files.append(file)
    return changes


def _usual_dim(chunks: Sequence[ChunkRow]) -> int:
    """Of a new table: a broken vector among others must not decide it."""
    return Counter(len(chunk.vector) // 4 for chunk in chunks).most_common(1)[0][0]


def _new_row(chunk: ChunkRow, file: int, vector: Vectors) -> NewRow:
    return NewRow(
        chunk.id,
        chunk.epoch,
        file,
        chunk.heading,
        chunk.ordinal,
        chunk.start_char,
        chunk.end_char,
        chunk.page,
        chunk.text,
        vector,
    )


def _is_due(table: Table, gpu: GpuSearch | None) -> bool:
    return table.is_worn or (gpu is not None and gpu.has_room and table.is_off_gpu())
