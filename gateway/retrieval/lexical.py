"""Words of all chunks in a tantivy index: BM25 over the stems of gateway/language. Knows chunk ids, not texts.

Every word is indexed under the number of its table ("3:tide"), so a query can only ever match tables that it names,
and how rare a word is follows from those tables alone. The average length of a chunk is all that tenants share.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tantivy

from gateway.errors import UpstreamUnavailable
from gateway.language.terms import is_content, stem, stems, words

MAX_QUERY_CHARS = 4000  # of a question that are searched for
MAX_QUERY_TERMS = 32  # the rarest ones of a longer question
WRITER_BYTES = 64 * 2**20  # of fresh words held in memory before they become a segment
REMOVED_AT_ONCE = 1024
PERFECT_TF = 2.2  # what tantivy's BM25 (k1 = 1.2) gives a word that fills a chunk, before its idf

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]


class Words(NamedTuple):
    """The words of one chunk to be indexed; text: heading and body."""

    table: int
    file: int
    chunk_id: int
    text: str


class Hits(NamedTuple):
    """Best first. Shapes: chunk_ids [N], scores [N] (BM25, > 0)."""

    chunk_ids: Ids
    scores: Scores


NO_HITS = Hits(np.empty(0, np.int64), np.empty(0, np.float32))


META = "meta.json"  # tantivy's list of segments, replaced at each commit
MANAGED = ".managed.json"  # and of all files that it may delete
LINK_TRIES = 10


class LexicalQuery(NamedTuple):
    """A question put to some tables. scale: the BM25 of a perfect match; 0 = nothing to look for."""

    query: tantivy.Query | None
    scale: float


class LexicalView:
    """The index as one commit left it. Never changes, whatever is written later."""

    def __init__(self, schema: tantivy.Schema, searcher: tantivy.Searcher) -> None:
        self._schema = schema
        self._searcher = searcher
        self.num_docs = searcher.num_docs

    def query(self, question: str, sizes: Mapping[int, int]) -> LexicalQuery:
        """sizes: number of table -> chunks in it, of the tables to search."""
        terms = query_terms(question)
        num_chunks = sum(sizes.values())
        if not terms or not num_chunks or not self.num_docs:
            return LexicalQuery(None, 0.0)
        weighed = [(self._idf_of(term, sizes, num_chunks), term) for term in terms]
        weighed.sort(key=lambda pair: -pair[0][0])
        weighed = weighed[:MAX_QUERY_TERMS]
        clauses: list[tuple[tantivy.Occur, tantivy.Query]] = []
        for (idf, counts), term in weighed:
            for table, count in counts.items():
                word = tantivy.Query.term_query(self._schema, "body", _word(table, term), "freq")
                # tantivy weighs the word by how rare it is among all documents of the index.
                boost = idf / _idf(count, self.num_docs)
                clauses.append((tantivy.Occur.Should, tantivy.Query.boost_query(word, boost)))
        scale = PERFECT_TF * sum(idf for (idf, _), _ in weighed)
        return LexicalQuery(tantivy.Query.boolean_query(clauses) if clauses else None, scale)

    def best(self, query: LexicalQuery, limit: int, files: Sequence[int] | None = None) -> Hits:
        """files: only chunks of these (numbers as given to `Words`); None = of any."""
        if query.query is None:
            return NO_HITS
        return self._found(self._among(query.query, "file", files), limit)

    def scored(self, query: LexicalQuery, chunk_ids: Sequence[int]) -> Hits:
        """Those of the chunks that have a word of the query."""
        if query.query is None or not chunk_ids:
            return NO_HITS
        # A chunk id may be in several tables; only those of the query count.
        return self._found(self._among(query.query, "chunk", chunk_ids), 2 * len(chunk_ids))

    def _idf_of(self, term: str, sizes: Mapping[int, int], num_chunks: int) -> tuple[float, dict[int, int]]:
        counts = {table: self._searcher.doc_freq("body", _word(table, term)) for table in sizes}
        found = {table: count for table, count in counts.items() if count}
        # Removed chunks are counted until their segment is merged.
        return _idf(min(sum(found.values()), num_chunks), num_chunks), found

    def _among(self, query: tantivy.Query, field: str, values: Sequence[int] | None) -> tantivy.Query:
        if values is None:
            return query
        # Not a term set query: it walks the whole dictionary of the field.
        each = [
            (tantivy.Occur.Should, tantivy.Query.term_query(self._schema, field, value, "basic"))
            for value in values
        ]
        allowed = tantivy.Query.const_score_query(tantivy.Query.boolean_query(each), 0.0)
        return tantivy.Query.boolean_query([(tantivy.Occur.Must, allowed), (tantivy.Occur.Must, query)])

    def _found(self, query: tantivy.Query, limit: int) -> Hits:
        hits = self._searcher.search(query, limit, count=False).hits
        ids = self._searcher.fast_field_values("chunk", [address for _, address in hits])
        return Hits(np.array(ids, np.int64), np.array([score for score, _ in hits], np.float32))


class LexicalIndex:
    """The writing side; one thread at a time. folder: where the index lives; None = in memory.

    Nothing written is seen before `commit`, and only through the view that it returns.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._schema = _schema()
        self._folder = folder
        try:
            self._index = tantivy.Index(self._schema, path=str(folder) if folder else None)
        except (ValueError, OSError) as error:
            raise _failed("cannot be opened", error) from error
        self._writer: tantivy.IndexWriter | None = None

    def add(self, chunks: Iterable[Words]) -> None:
        writer = self._open_writer()
        for chunk in chunks:
            document = tantivy.Document()
            document.add_unsigned("chunk", chunk.chunk_id)
            document.add_unsigned("table", chunk.table)
            document.add_unsigned("file", chunk.file)
            document.add_text("body", indexed_text(chunk.table, chunk.text))
            writer.add_document(document)

    def remove_chunks(self, table: int, chunk_ids: Sequence[int]) -> None:
        """Takes what was added before, not what is added from now on."""
        writer = self._open_writer()
        of_table = self._number_query("table", table)
        for start in range(0, len(chunk_ids), REMOVED_AT_ONCE):
            some = tantivy.Query.term_set_query(
                self._schema, "chunk", list(chunk_ids[start : start + REMOVED_AT_ONCE])
            )
            both = [(tantivy.Occur.Must, of_table), (tantivy.Occur.Must, some)]
            writer.delete_documents_by_query(tantivy.Query.boolean_query(both))

    def remove_table(self, table: int) -> None:
        self._open_writer().delete_documents_by_query(self._number_query("table", table))

    def commit(self) -> LexicalView:
        """Raises: UpstreamUnavailable when the disk does not take it; then nothing has changed."""
        try:
            if self._writer is not None:
                self._writer.commit()
            return self.view()
        except (ValueError, OSError) as error:
            self.rollback()
            raise _failed("cannot be written", error) from error

    def view(self) -> LexicalView:
        self._index.reload()
        return LexicalView(self._schema, self._index.searcher())

    def link_to(self, target: Path) -> None:
        """Make `target` a folder that opens as this index stands now. Files are shared: none is ever changed.

        Nothing may be written meanwhile; merging, which goes on by itself, is waited out.
        Raises: OSError; UpstreamUnavailable for an index in memory.
        """
        if self._folder is None:
            raise _failed("cannot be kept", ValueError("it is in memory"))
        for _ in range(LINK_TRIES):
            shutil.rmtree(target, ignore_errors=True)
            before = (self._folder / META).read_bytes()
            try:
                link_files(self._folder, target, before)
            except FileNotFoundError:
                continue  # merged away between the two steps
            if (self._folder / META).read_bytes() == before:
                return
        raise _failed("cannot be kept", OSError(f"its files changed {LINK_TRIES} times"))

    def rollback(self) -> None:
        """Forget what was not committed. A writer that has failed is of no more use: the next call opens another."""
        self._writer = None

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            writer.wait_merging_threads()

    def _number_query(self, field: str, number: int) -> tantivy.Query:
        # Removing by term takes the number for a signed one and finds nothing.
        return tantivy.Query.term_query(self._schema, field, number, "basic")

    def _open_writer(self) -> tantivy.IndexWriter:
        if self._writer is None:
            try:
                self._writer = self._index.writer(heap_size=WRITER_BYTES, num_threads=1)
            except (ValueError, OSError) as error:
                raise _failed("cannot be written", error) from error
        return self._writer


def link_files(source: Path, target: Path, meta: bytes) -> None:
    """The segments that meta lists, hard-linked where the file system can.

    Raises: OSError; ValueError when meta is not tantivy's.
    """
    target.mkdir(parents=True)
    segments = tuple(str(segment["segment_id"]).replace("-", "") for segment in json.loads(meta)["segments"])
    for path in source.iterdir():
        if path.name.startswith(segments):
            try:
                os.link(path, target / path.name)
            except FileNotFoundError:
                raise
            except OSError:
                shutil.copyfile(path, target / path.name)
    shutil.copyfile(source / MANAGED, target / MANAGED)
    (target / META).write_bytes(meta)


def query_terms(question: str) -> list[str]:
    """Stems to look for: of content words; of all words where there is no other."""
    found = words(question[:MAX_QUERY_CHARS])
    content = dict.fromkeys(stem(word.text) for word in found if is_content(word.text))
    return list(content or dict.fromkeys(stem(word.text) for word in found))


def indexed_text(table: int, text: str) -> str:
    """What tantivy's splitter at spaces makes the words of: stems under the table's number."""
    prefix = _word(table, "")
    return " ".join([prefix + found for found in stems(text)])


def _word(table: int, term: str) -> str:
    return f"{table:x}:{term}"


def _idf(count: int, num_docs: int) -> float:
    """As tantivy has it; a word of `count` among `num_docs` documents."""
    return math.log(1.0 + (max(num_docs - count, 0) + 0.5) / (count + 0.5))


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("chunk", indexed=True, fast=True)
    builder.add_unsigned_field("table", indexed=True)
    builder.add_unsigned_field("file", indexed=True)
    builder.add_text_field("body", tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def _failed(what: str, error: Exception) -> UpstreamUnavailable:
    return UpstreamUnavailable("The search index is away.", detail=f"lexical index {what}: {error}")
