"""The answer memory in the pipeline: what is given again, and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.filters import Filter
from gateway.types import Sampling, Tenant, Turn
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import MemoryBench
from tests.fakes.pipelines import ListeningSink

QUESTION = "What is a tide gate?"


def verdicts(bench: MemoryBench) -> dict[str, float]:
    names = ("exact", "semantic", "joined", "miss", "refresh", "off")
    read = bench.metrics.registry.get_sample_value
    found = {name: read("tidegate_cache_verdicts_total", {"verdict": name}) for name in names}
    return {name: count for name, count in found.items() if count}


async def test_the_same_question_gets_the_same_answer_without_any_work(bench: MemoryBench) -> None:
    first, second = ListeningSink(), ListeningSink()
    made, given = await bench.into(first), await bench.into(second, " What is  a tide gate ?")
    assert (made.outcome, made.cache) == ("completed", "miss")
    assert (given.outcome, given.cache, given.cache_similarity) == ("cached", "exact", 1.0)
    assert (first.text, first.citations) == (second.text, second.citations)
    assert (bench.answerer.started, bench.retriever.started) == (1, 1)
    assert [each["cited"] for each in given.passages] == [each["cited"] for each in made.passages]
    assert given.finish_reason == made.finish_reason
    assert given.cache_age_s >= 0
    assert verdicts(bench) == {"miss": 1, "exact": 1}


async def test_a_hit_is_billed_by_its_own_weight_and_takes_no_slot(bench: MemoryBench) -> None:
    made = await bench.ask()
    held = [await bench.queue.acquire(band="batch", deadline=float("inf")) for _ in range(bench.queue.limit)]
    given = await bench.ask()
    for permit in held:
        permit.release()
    assert given.cache == "exact"
    assert given.queue_ms < 0
    assert 0 < given.usage.completion_tokens <= made.usage.completion_tokens * 0.1 + 1
    assert given.usage.prompt_tokens <= made.usage.prompt_tokens * 0.1 + 1


DIFFERENT: dict[str, dict[str, Any]] = {
    "question": {"question": "What is a tidal gate?"},
    "tenant": {"tenant": Tenant("rival")},
    "collections": {"collections": ["vs_1"]},
    "filters": {"filters": Filter(type="eq", key="lang", value="en")},
    "tier": {"model": "deep"},
    "passages": {"top_k": 1},
    "length": {"sampling": Sampling(max_tokens=5)},
}


@pytest.mark.parametrize("changes", DIFFERENT.values(), ids=DIFFERENT)
async def test_whatever_decides_the_answer_is_part_of_the_key(
    bench: MemoryBench, changes: dict[str, Any]
) -> None:
    await bench.ask()
    assert (await bench.ask(**changes)).cache == "miss"
    assert (await bench.ask(**changes)).cache == "exact"
    assert (await bench.ask()).cache == "exact"


async def test_before_the_first_look_an_answer_shows_its_evidence(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path)
    await bench.ask()
    again = await bench.ask()
    assert (again.cache, again.cache_agreement) == ("exact", 1.0)
    assert (bench.retriever.started, bench.answerer.started) == (2, 1)
    bench.close()


async def test_after_a_change_elsewhere_the_same_evidence_is_enough(bench: MemoryBench) -> None:
    await bench.ask()
    await bench.changed()
    again = await bench.ask()
    assert (again.cache, again.cache_agreement) == ("exact", 1.0)
    assert bench.answerer.started == 1
    assert (await bench.ask()).cache_agreement < 0  # it is known again to be current
    assert bench.retriever.started == 2


async def test_a_changed_document_ends_the_answers_that_stand_on_it(bench: MemoryBench) -> None:
    await bench.ask()
    bench.retriever.passages = [passage(3, "A tide gate is a door now."), PASSAGES[1]]
    await bench.changed()
    sink = ListeningSink()
    again = await bench.into(sink)
    assert again.cache == "miss"
    assert "a door now" in sink.text
    assert bench.metrics.registry.get_sample_value("tidegate_cache_stale_total") == 1


async def test_a_new_document_that_would_be_found_makes_it_a_miss(bench: MemoryBench) -> None:
    await bench.ask()
    bench.retriever.passages = [*PASSAGES, passage(9, "Gates open at low tide.")]
    await bench.changed()
    assert (await bench.ask()).cache == "miss"


async def test_a_change_in_another_collection_or_of_another_tenant_changes_nothing(
    bench: MemoryBench,
) -> None:
    await bench.ask(collections=["vs_1"])
    await bench.changed("vs_2")
    await bench.changed("vs_1", tenant_id="rival")
    assert (await bench.ask(collections=["vs_1"])).cache == "exact"
    assert bench.retriever.started == 1


async def test_what_an_older_index_found_is_not_taken_for_current(bench: MemoryBench) -> None:
    """Search lags behind SQL: the answer was made before the change that the watch has seen already."""
    epoch = await bench.changed()
    bench.retriever.epoch = epoch - 1
    await bench.ask()
    bench.retriever.passages, bench.retriever.epoch = [PASSAGES[1]], epoch
    assert (await bench.ask()).cache == "miss"


async def test_a_watch_that_has_not_looked_lately_vouches_for_nothing(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path)
    now = [0.0]
    bench.watch._clock = lambda: now[0]
    await bench.watch.look()
    await bench.ask()
    now[0] = 5.0
    assert (await bench.ask()).cache_agreement == 1.0
    bench.close()


async def test_off_neither_takes_nor_keeps_and_refresh_makes_it_anew(bench: MemoryBench) -> None:
    assert (await bench.ask(cache="off")).cache == "off"
    assert (await bench.ask()).cache == "miss"
    assert (await bench.ask(cache="off")).cache == "off"
    bench.answerer.texts = ["New."]
    assert (await bench.ask(cache="refresh")).cache == "refresh"
    sink = ListeningSink()
    assert (await bench.into(sink)).cache == "exact"
    assert sink.text == "New."


async def test_nothing_is_kept_of_a_tenant_that_opted_out(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, opted_out=frozenset({"acme"}))
    await bench.watch.look()
    assert [(await bench.ask()).cache for _ in range(2)] == ["off", "off"]
    assert len(bench.answers) == 0
    bench.close()


@pytest.mark.parametrize(
    ("sampling", "cache"),
    [
        (Sampling(), "exact"),
        (Sampling(temperature=0.7), "off"),
        (Sampling(temperature=0.7, seed=3), "exact"),
        (Sampling(temperature=0.0), "exact"),
    ],
    ids=["tier's greedy default", "by chance", "seed", "greedy"],
)
async def test_only_what_would_come_out_the_same_is_remembered(
    bench: MemoryBench, sampling: Sampling, cache: str
) -> None:
    await bench.ask(model="writer", sampling=sampling)
    assert (await bench.ask(model="writer", sampling=sampling)).cache == cache


async def test_what_is_drawn_by_chance_is_remembered_for_whoever_asks_for_that(bench: MemoryBench) -> None:
    drawn: dict[str, Any] = {"model": "writer", "sampling": Sampling(temperature=0.7)}
    told = [(await bench.ask(**drawn, cache=choice)).cache for choice in ("use", "use", "refresh", "use")]
    assert told == ["miss", "exact", "refresh", "exact"]
    assert (await bench.ask(**drawn)).cache == "off"  # who does not ask gets a draw of its own
    hotter = drawn | {"sampling": Sampling(temperature=0.8)}
    assert (await bench.ask(**hotter, cache="use")).cache == "miss"
    assert bench.answerer.started == 4


async def test_who_writes_has_the_conversation_in_the_key_and_who_quotes_has_not(bench: MemoryBench) -> None:
    talk = [Turn("user", "Hello"), Turn("assistant", "Hello.")]
    for model, cache in (("fast", "exact"), ("writer", "miss")):
        await bench.ask(model=model)
        assert (await bench.ask(model=model, history=talk)).cache == cache


async def test_a_follow_up_is_met_by_what_it_means(bench: MemoryBench) -> None:
    await bench.ask("How does a tide gate work?")
    gates = [Turn("user", QUESTION), Turn("assistant", "A tide gate lets water through. [1]")]
    locks = [Turn("user", "What is a canal lock?"), Turn("assistant", "A canal lock lifts boats. [1]")]
    assert (await bench.ask("How does it work?", history=gates)).cache == "exact"
    assert (await bench.ask("How does it work?", history=locks)).cache == "miss"


async def test_an_answer_that_broke_off_is_not_remembered(bench: MemoryBench) -> None:
    bench.answerer.fail_with, bench.answerer.fail_at = UpstreamUnavailable("away"), 1
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()
    bench.answerer.fail_with = None
    assert (await bench.ask()).cache == "miss"
