"""The tables of a generation as files of a snapshot, and back. What the files are worth is the snapshot's concern."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NamedTuple

import faiss
import msgspec
import numpy as np
import numpy.typing as npt

from gateway.retrieval.columns import DTYPES, Columns, Texts, columns_of, id_order
from gateway.retrieval.files import Files
from gateway.retrieval.nearest import Graph, VectorRows, graph_of
from gateway.retrieval.shelf import Shelf, Tenants
from gateway.retrieval.table import Table

TEXTS_AT_ONCE = 4096
_faiss: Any = faiss


class TableMeta(msgspec.Struct, frozen=True):
    """num_in_graph: its first rows, whose vectors are in `graph-<number>.faiss`; 0 = there is no such file.

    The other vectors, the columns and the texts follow those of the table before in vectors.bin, columns.bin and
    texts.bin.
    """

    embedder: str
    number: int
    dim: int
    count: int
    num_in_graph: int
    num_text_bytes: int
    headings: list[str]


class ShelfMeta(msgspec.Struct, frozen=True):
    tenant_id: str
    collection_id: str
    file_ids: list[str]
    file_names: list[str]
    attributes: list[dict[str, Any]]
    attribute_sets: list[int]
    attribute_epochs: list[int]
    tables: list[TableMeta]


class Streams(NamedTuple):
    columns: IO[bytes]
    texts: IO[bytes]
    vectors: IO[bytes]


class Shelves(msgspec.Struct, frozen=True):
    """next_number: of the next table. num_bad: chunks of SQL that are left out for their vectors."""

    next_number: int
    num_bad: int
    shelves: list[ShelfMeta]


class Contents(NamedTuple):
    """What the files hold; numbers as in Shelves."""

    tenants: Tenants
    next_number: int
    num_bad: int


def write(contents: Contents, folder: Path) -> None:
    """Raises: OSError; RuntimeError from FAISS."""
    shelves = []
    with ExitStack() as stack:
        names = ("columns.bin", "texts.bin", "vectors.bin")
        streams = Streams(*(stack.enter_context((folder / name).open("wb")) for name in names))
        for tenant_id, of_tenant in contents.tenants.items():
            for collection_id, shelf in of_tenant.items():
                files = shelf.files
                num_files = len(files.attribute_set)  # the lists may be longer already
                shelves.append(
                    ShelfMeta(
                        tenant_id,
                        collection_id,
                        files.ids[:num_files],
                        files.names[:num_files],
                        list(files.attributes),
                        files.attribute_set.tolist(),
                        files.epoch.tolist(),
                        [_write_table(name, table, folder, streams) for name, table in shelf.tables.items()],
                    )
                )
    (folder / "shelves.json").write_bytes(
        msgspec.json.encode(Shelves(contents.next_number, contents.num_bad, shelves))
    )


def read(folder: Path) -> Contents:
    """The texts stay on disk, mapped.

    Raises: ValueError, OSError, RuntimeError when the files do not fit together.
    """
    meta = msgspec.json.decode((folder / "shelves.json").read_bytes(), type=Shelves)
    tenants: dict[str, dict[str, Shelf]] = {}
    is_empty = (folder / "texts.bin").stat().st_size == 0  # cannot be mapped
    blob = np.empty(0, np.uint8) if is_empty else np.memmap(folder / "texts.bin", np.uint8, mode="r")
    text_at = 0
    with (folder / "columns.bin").open("rb") as columns, (folder / "vectors.bin").open("rb") as vectors:
        for shelf in meta.shelves:
            tables = {}
            for table in shelf.tables:
                text = blob[text_at : text_at + table.num_text_bytes]
                text_at += table.num_text_bytes
                tables[table.embedder] = _read_table(table, folder, columns, vectors, text)
            tenants.setdefault(shelf.tenant_id, {})[shelf.collection_id] = Shelf(_files(shelf), tables)
    return Contents(tenants, meta.next_number, meta.num_bad)


def _write_table(name: str, table: Table, folder: Path, streams: Streams) -> TableMeta:
    if table.vectors.graph is None and table.num_dead:
        table = table.compacted()
    count, split = table.count, table.vectors.num_in_graph
    headings = list(table.headings)
    ends = np.empty(count, np.int64)
    start = end = streams.texts.tell()
    for row in range(0, count, TEXTS_AT_ONCE):
        batch = [table.texts[number] for number in range(row, min(row + TEXTS_AT_ONCE, count))]
        ends[row : row + len(batch)] = end - start + np.cumsum([len(text) for text in batch])
        end += streams.texts.write(b"".join(batch))
    for column, dtype in zip(Columns._fields, DTYPES, strict=True):
        used = getattr(table.columns, column)[:count]
        streams.columns.write(np.ascontiguousarray(used, dtype).data)
    streams.columns.write(ends.data)
    streams.columns.write(table.is_dead(count).tobytes())
    streams.vectors.write(np.ascontiguousarray(table.vectors.later[: count - split], "<f4").data)
    if table.vectors.graph is not None:
        _faiss.write_index(table.vectors.graph.index, str(folder / f"graph-{table.number}.faiss"))
    return TableMeta(name, table.number, table.dim, count, split, end - start, headings)


def _read_table(
    meta: TableMeta, folder: Path, columns: IO[bytes], vectors: IO[bytes], text: npt.NDArray[np.uint8]
) -> Table:
    graph = None
    if meta.num_in_graph:
        graph = _read_graph(folder / f"graph-{meta.number}.faiss", meta)
    later = _numbers(vectors, "<f4", (meta.count - meta.num_in_graph) * meta.dim).reshape(-1, meta.dim)
    kept = columns_of(_numbers(columns, dtype, meta.count) for dtype in DTYPES)
    ends = _numbers(columns, "<i8", meta.count)
    dead = _numbers(columns, "|b1", meta.count)
    if len(ends) and (ends[-1] != len(text) or np.any(np.diff(ends) < 0)):
        raise ValueError(f"the texts of table {meta.number} do not fit their lengths")
    num_dead = int(np.count_nonzero(dead))
    return Table(
        meta.number,
        meta.dim,
        VectorRows(graph, later, meta.count),
        kept,
        Texts(text, ends),
        meta.headings,
        {heading: number for number, heading in enumerate(meta.headings)},
        num_dead,
        dead if num_dead else None,
        id_order(kept.chunk),
    )


def _read_graph(path: Path, meta: TableMeta) -> Graph:
    graph = graph_of(_faiss.read_index(str(path)))
    if graph.vectors.shape != (meta.num_in_graph, meta.dim):
        raise ValueError(f"{path.name} holds {graph.vectors.shape}, not {(meta.num_in_graph, meta.dim)}")
    return graph


def _numbers(file: IO[bytes], dtype: str, count: int) -> npt.NDArray[Any]:
    numbers: npt.NDArray[Any] = np.fromfile(file, dtype, count)
    if len(numbers) != count:
        raise ValueError(f"{file.name} ends early")
    return numbers


def _files(meta: ShelfMeta) -> Files:
    return Files(
        meta.file_ids,
        meta.file_names,
        {file_id: number for number, file_id in enumerate(meta.file_ids)},
        meta.attributes,
        {msgspec.json.encode(each, order="sorted"): number for number, each in enumerate(meta.attributes)},
        np.array(meta.attribute_sets, np.int32),
        np.array(meta.attribute_epochs, np.int64),
    )
