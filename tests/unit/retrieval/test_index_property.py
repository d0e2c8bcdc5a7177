"""Whatever comes in whatever pages, an index that followed holds what one that reads only the end holds."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.filters import Filter
from gateway.retrieval import table
from gateway.retrieval.index import CorpusIndex
from gateway.storage.changes import ChunkRow, FileRow, RemovalRow, Tail
from tests.unit.retrieval.chunks import DIM, ask, chunk

WORDS = ["harbour", "crane", "pilot", "lock", "tide", "gate", "sluice", "buoy"]
EMBEDDERS = {"all-MiniLM-L6-v2": DIM, "small": 5}


class Corpus:
    """What SQL would hold: publishes, replaces, removes and re-embeds files as the storage does, epoch by epoch."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.epoch = 0
        self.next_id = 1
        self.chunks: dict[int, ChunkRow] = {}
        self.files: dict[tuple[str, str, str], FileRow] = {}

    def step(self) -> Tail:
        self.epoch += 1
        place = {"tenant": self.choice(["t", "u"]), "collection": self.choice(["c", "d"])}
        file = f"f{self.rng.integers(5)}"
        actions = [self.publish, self.publish, self.remove, self.remove_all, self.reembed, self.describe]
        return self.choice(actions)(file=file, **place)

    def choice(self, given: list[Any]) -> Any:
        return given[self.rng.integers(len(given))]

    def publish(self, *, tenant: str, collection: str, file: str) -> Tail:
        self.chunks = {n: row for n, row in self.chunks.items() if not is_of(row, tenant, collection, file)}
        rows = []
        for _ in range(self.rng.integers(0, 12)):
            embedder = self.choice(list(EMBEDDERS))
            text = " ".join(self.rng.choice(WORDS, 4)) + f" {self.next_id}"
            vector = self.rng.standard_normal(EMBEDDERS[embedder])
            row = chunk(
                self.next_id,
                vector,
                tenant=tenant,
                collection=collection,
                file=file,
                text=text,
                epoch=self.epoch,
                embedder=embedder,
            )
            rows.append(row)
            self.next_id += 1
        self.chunks |= {row.id: row for row in rows}
        removal = RemovalRow(self.epoch, tenant, collection, file)
        return Tail(self.epoch, rows, [removal], False, [self.attributes(tenant, collection, file)])

    def remove(self, *, tenant: str, collection: str, file: str) -> Tail:
        self.chunks = {n: row for n, row in self.chunks.items() if not is_of(row, tenant, collection, file)}
        return Tail(self.epoch, [], [RemovalRow(self.epoch, tenant, collection, file)], False)

    def remove_all(self, *, tenant: str, collection: str, file: str) -> Tail:
        if self.rng.integers(3):
            return self.publish(tenant=tenant, collection=collection, file=file)
        self.chunks = {n: row for n, row in self.chunks.items() if not is_of(row, tenant, collection)}
        return Tail(self.epoch, [], [RemovalRow(self.epoch, tenant, collection, None)], False)

    def reembed(self, *, tenant: str, collection: str, file: str) -> Tail:
        """Some chunks come again, with the vector of another model."""
        rows = []
        for row in list(self.chunks.values()):
            if is_of(row, tenant, collection) and self.rng.integers(2):
                embedder = self.choice(list(EMBEDDERS))
                vector = self.rng.standard_normal(EMBEDDERS[embedder]).astype("<f4").tobytes()
                rows.append(msgspec.structs.replace(row, vector=vector, embedder=embedder, epoch=self.epoch))
        self.chunks |= {row.id: row for row in rows}
        return Tail(self.epoch, rows, [], False)

    def describe(self, *, tenant: str, collection: str, file: str) -> Tail:
        return Tail(self.epoch, [], [], False, [self.attributes(tenant, collection, file)])

    def attributes(self, tenant: str, collection: str, file: str) -> FileRow:
        row = FileRow(tenant, collection, file, {"n": int(self.rng.integers(4))}, self.epoch)
        self.files[tenant, collection, file] = row
        return row

    def whole(self) -> Tail:
        return Tail(self.epoch, list(self.chunks.values()), [], False, list(self.files.values()))


def is_of(row: ChunkRow, tenant: str, collection: str, file: str = "") -> bool:
    return (row.tenant_id, row.collection_id) == (tenant, collection) and file in ("", row.file_id)


def answers(index: CorpusIndex, seed: int) -> list[Any]:
    """Of many questions. Not the BM25 itself: it counts removed chunks until their segment is merged."""
    rng = np.random.default_rng(seed)
    out = []
    for tenant in ("t", "u"):
        for embedder, dim in EMBEDDERS.items():
            for filters in (None, Filter(type="gte", key="n", value=2)):
                scope = {"tenant_id": tenant, "embedder": embedder, "filters": filters, "k": 64}
                vector = rng.standard_normal(dim).astype(np.float32)
                dense = ask(index, vector, **scope)
                lexical = ask(index, vector, "harbour pilot", ranking="lexical", **scope)
                out.append([(p.chunk_id, p.text, p.file_id, p.score) for p in dense])
                out.append(sorted((p.chunk_id, p.score) for p in lexical))
    return out


@pytest.mark.parametrize("seed", range(6))
def test_index_that_followed_equals_one_built_at_the_end(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MIN_DEAD", 4)
    corpus, followed = Corpus(seed), CorpusIndex()
    for step in range(60):
        tail = corpus.step()
        followed.apply(tail)
        if step % 7 == 0:
            followed.apply(tail)  # a page that came twice
    built = CorpusIndex()
    built.apply(corpus.whole())
    assert followed.num_chunks == built.num_chunks == len(corpus.chunks)
    assert followed.epoch == built.epoch
    assert answers(followed, seed) == answers(built, seed)
    assert followed._generation.lexical.num_docs == len(corpus.chunks)
