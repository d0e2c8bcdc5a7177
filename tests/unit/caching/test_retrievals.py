"""Searches that are remembered: given again only while what would be found is what was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.retrievals import MAX_AGE_S, Retrievals
from gateway.caching.shared import Purge
from gateway.filters import Filter
from gateway.ports import Retrieved
from gateway.types import Passage, Sampling, Scope, Tenant
from tests.fakes.engines import PASSAGES, vectors
from tests.fakes.memory import MemoryBench

SCOPE = Scope(tenant_id="acme", collections=["vs_1"])
TEXT = "What is a tide gate?"


def found(passages: list[Passage] = PASSAGES, epoch: int = 0) -> Retrieved:
    return Retrieved(vectors([TEXT])[0], list(passages), 5.0, 2.0, epoch)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MemoryBench]:
    made = MemoryBench(tmp_path)
    yield made
    made.close()


class Counted:
    def __init__(self) -> None:
        self.results: list[str] = []


def over(watch: CorpusWatch, counted: Counted | None = None, max_bytes: int = 2**20) -> Retrievals:
    return Retrievals(watch, max_bytes=max_bytes, count=(counted or Counted()).results.append)


async def test_what_was_found_is_given_again_and_took_no_time(bench: MemoryBench) -> None:
    await bench.watch.look()
    counted = Counted()
    kept = over(bench.watch, counted)
    assert kept.get(TEXT, SCOPE) is None
    kept.keep(TEXT, SCOPE, found())
    again = kept.get(TEXT, SCOPE)
    assert again is not None
    assert (again.passages, again.epoch, again.embed_ms, again.search_ms) == (PASSAGES, 0, 0.0, 0.0)
    assert (again.embedding == found().embedding).all()
    assert counted.results == ["miss", "hit"]


DIFFERENT = {
    "tenant": {"tenant_id": "rival"},
    "collections": {"collections": ["vs_2"]},
    "all collections": {"collections": []},
    "k": {"k": 3},
    "filters": {"filters": Filter(type="eq", key="lang", value="en")},
    "ranking": {"ranking": "lexical"},
    "embedder": {"embedder": "tiny"},
    "rerank": {"rerank": False},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
async def test_whatever_decides_what_is_found_is_part_of_the_key(
    bench: MemoryBench, changes: dict[str, object]
) -> None:
    await bench.watch.look()
    kept = over(bench.watch)
    kept.keep(TEXT, SCOPE, found())
    assert kept.get(TEXT, msgspec.structs.replace(SCOPE, **changes)) is None
    assert kept.get(TEXT + " ", SCOPE) is None  # words are searched for as they are written


async def test_a_change_in_its_collections_makes_it_stale_and_no_other_does(bench: MemoryBench) -> None:
    await bench.watch.look()
    counted = Counted()
    kept = over(bench.watch, counted)
    kept.keep(TEXT, SCOPE, found())
    await bench.changed("vs_2")
    await bench.changed("vs_1", tenant_id="rival")
    assert kept.get(TEXT, SCOPE) is not None
    epoch = await bench.changed("vs_1")
    assert kept.get(TEXT, SCOPE) is None
    kept.keep(TEXT, SCOPE, found(epoch=epoch))
    assert kept.get(TEXT, SCOPE) is not None
    assert counted.results == ["hit", "stale", "hit"]


async def test_what_an_older_index_found_is_never_given(bench: MemoryBench) -> None:
    await bench.watch.look()
    epoch = await bench.changed("vs_1")
    kept = over(bench.watch)
    kept.keep(TEXT, SCOPE, found(epoch=epoch - 1))
    assert kept.get(TEXT, SCOPE) is None
    kept.keep(TEXT, SCOPE, found(epoch=-1))
    assert kept.get(TEXT, SCOPE) is None


async def test_one_that_is_old_or_of_a_tenant_that_opted_out_is_not_given(bench: MemoryBench) -> None:
    await bench.watch.look()
    now = [0.0]
    kept = Retrievals(bench.watch, max_bytes=2**20, opted_out=frozenset({"rival"}), clock=lambda: now[0])
    kept.keep(TEXT, msgspec.structs.replace(SCOPE, tenant_id="rival"), found())
    assert len(kept) == 0
    kept.keep(TEXT, SCOPE, found())
    now[0] = MAX_AGE_S + 1
    assert kept.get(TEXT, SCOPE) is None


async def test_it_stays_within_its_bytes_and_a_purge_empties_a_tenant(bench: MemoryBench) -> None:
    await bench.watch.look()
    kept = over(bench.watch, max_bytes=200_000)
    for number in range(500):
        kept.keep(f"Question {number}?", SCOPE, found())
    assert 0 < kept.num_bytes <= 200_000
    others = msgspec.structs.replace(SCOPE, tenant_id="rival")
    kept.keep(TEXT, others, found())
    assert kept.forget(Purge(tenant_id="acme")) > 0
    assert len(kept) == 1
    assert kept.get(TEXT, others) is not None


# In the life of a request.


async def remembering(bench: MemoryBench) -> Counted:
    await bench.watch.look()
    counted = Counted()
    bench.pipeline._gatherer._retrievals = over(bench.watch, counted)
    return counted


async def test_a_question_without_an_answer_still_saves_its_search(bench: MemoryBench) -> None:
    counted = await remembering(bench)
    made = await bench.ask()
    other = await bench.ask(sampling=Sampling(max_tokens=5))
    assert (made.cache, other.cache) == ("miss", "miss")
    assert other.passages == made.passages
    assert counted.results == ["miss", "hit"]
    assert (bench.retriever.started, bench.answerer.started) == (1, 2)
    assert (other.embed_ms, other.search_ms) == (0, 0)


async def test_a_refresh_searches_anew_and_an_off_leaves_nothing(bench: MemoryBench) -> None:
    counted = await remembering(bench)
    await bench.ask(cache="off")
    await bench.ask()
    await bench.ask(cache="refresh")
    assert bench.retriever.started == 3
    assert counted.results == ["miss"]


async def test_a_changed_document_is_searched_for_again(bench: MemoryBench) -> None:
    await remembering(bench)
    await bench.ask(collections=["vs_1"])
    bench.retriever.passages = PASSAGES[1:]
    await bench.changed("vs_1")
    again = await bench.ask(collections=["vs_1"])
    assert again.cache == "miss"
    assert [passage["file_id"] for passage in again.passages] == [PASSAGES[1].file_id]


async def test_what_must_be_searched_for_again_is_not_embedded_again(bench: MemoryBench) -> None:
    """After a change, and in other collections: the text's vector is the same."""
    await remembering(bench)
    await bench.ask(collections=["vs_1"])
    assert bench.retriever.by_vector == []
    await bench.changed("vs_1")
    await bench.ask(collections=["vs_1"])
    await bench.ask(collections=["vs_2"], top_k=3)
    assert (bench.retriever.started, len(bench.retriever.by_vector)) == (3, 2)
    await bench.ask("What is a lock?", collections=["vs_1"])
    await bench.ask(collections=["vs_1"], cache="refresh")
    await bench.ask(collections=["vs_1"], cache="off")
    assert (bench.retriever.started, len(bench.retriever.by_vector)) == (6, 2)


async def test_a_question_of_another_tenant_is_no_help(bench: MemoryBench) -> None:
    """Word for word the same, it takes all the work that a new one takes, so its time tells nothing either."""
    counted = await remembering(bench)
    for tenant, verdict in (("acme", "miss"), ("rival", "miss"), ("rival", "exact")):
        assert (await bench.ask(tenant=Tenant(tenant), collections=["vs_1"])).cache == verdict
    assert counted.results == ["miss", "miss"]
    assert (bench.retriever.started, bench.answerer.started) == (2, 2)
    assert [scope.tenant_id for scope in bench.retriever.scopes] == ["acme", "rival"]
    assert bench.retriever.by_vector == []
    await bench.ask("In what way does a gate work?", tenant=Tenant("acme"), collections=["vs_1"])
    await bench.ask("In what way does a gate work?", tenant=Tenant("rival"), collections=["vs_1"], top_k=2)
    assert (bench.retriever.started, bench.answerer.started, bench.retriever.by_vector) == (4, 4, [])


async def test_vectors_stay_within_the_bytes_and_go_with_a_purge(bench: MemoryBench) -> None:
    await bench.watch.look()
    small = Retrievals(bench.watch, max_bytes=100_000)
    for number in range(300):
        small.keep(f"Question {number}?", SCOPE, found())
    assert 0 < small.num_bytes <= 100_000
    asked: list[str] = []
    kept = Retrievals(bench.watch, max_bytes=2**20, count_vector=asked.append, opted_out=frozenset({"rival"}))
    kept.keep(TEXT, SCOPE, found())
    known = kept.vector(TEXT, SCOPE)
    assert known is not None
    assert (known == found().embedding).all()
    assert kept.vector(TEXT, msgspec.structs.replace(SCOPE, embedder="tiny")) is None
    assert kept.vector(TEXT, msgspec.structs.replace(SCOPE, tenant_id="rival")) is None
    kept.forget(Purge(tenant_id="acme"))
    assert kept.vector(TEXT, SCOPE) is None
    kept.keep(TEXT, msgspec.structs.replace(SCOPE, tenant_id="rival"), found())
    assert kept.vector(TEXT, msgspec.structs.replace(SCOPE, tenant_id="rival")) is None
    assert asked == ["hit", *["miss"] * 4]
    assert kept.num_bytes == 0
