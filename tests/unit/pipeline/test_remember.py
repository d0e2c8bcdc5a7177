"""The answer memory in the pipeline: what is given again, what is not, and that nobody waits or pays for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.caching.threshold import Thresholds
from gateway.errors import UpstreamUnavailable
from gateway.filters import Filter
from gateway.pipeline.route import Route
from gateway.tiering.tiers import builtin_tiers
from gateway.types import Receipt, Sampling, Tenant, Turn
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import ListeningSink, MemoryBench

QUESTION = "What is a tide gate?"
ROUTE = Route(builtin_tiers(2, 2)[0])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[MemoryBench]:
    made = MemoryBench(tmp_path)
    yield made
    made.close()


async def watched(bench: MemoryBench) -> MemoryBench:
    """After the first look, so that what is unchanged counts as such."""
    await bench.watch.look()
    return bench


def verdicts(bench: MemoryBench) -> dict[str, float]:
    names = ("exact", "semantic", "joined", "miss", "refresh", "off")
    read = bench.metrics.registry.get_sample_value
    found = {name: read("tidegate_cache_verdicts_total", {"verdict": name}) for name in names}
    return {name: count for name, count in found.items() if count}


async def test_the_same_question_gets_the_same_answer_without_any_work(bench: MemoryBench) -> None:
    await watched(bench)
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
    await watched(bench)
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
    await watched(bench)
    await bench.ask()
    assert (await bench.ask(**changes)).cache == "miss"
    assert (await bench.ask(**changes)).cache == "exact"
    assert (await bench.ask()).cache == "exact"


async def test_before_the_first_look_an_answer_shows_its_evidence(bench: MemoryBench) -> None:
    await bench.ask()
    again = await bench.ask()
    assert (again.cache, again.cache_agreement) == ("exact", 1.0)
    assert (bench.retriever.started, bench.answerer.started) == (2, 1)


async def test_after_a_change_elsewhere_the_same_evidence_is_enough(bench: MemoryBench) -> None:
    await watched(bench)
    await bench.ask()
    await bench.changed()
    again = await bench.ask()
    assert (again.cache, again.cache_agreement) == ("exact", 1.0)
    assert bench.answerer.started == 1
    assert (await bench.ask()).cache_agreement < 0  # it is known again to be current
    assert bench.retriever.started == 2


async def test_a_changed_document_ends_the_answers_that_stand_on_it(bench: MemoryBench) -> None:
    await watched(bench)
    await bench.ask()
    bench.retriever.passages = [passage(3, "A tide gate is a door now."), PASSAGES[1]]
    await bench.changed()
    sink = ListeningSink()
    again = await bench.into(sink)
    assert again.cache == "miss"
    assert "a door now" in sink.text
    assert bench.metrics.registry.get_sample_value("tidegate_cache_stale_total") == 1


async def test_a_new_document_that_would_be_found_makes_it_a_miss(bench: MemoryBench) -> None:
    await watched(bench)
    await bench.ask()
    bench.retriever.passages = [*PASSAGES, passage(9, "Gates open at low tide.")]
    await bench.changed()
    assert (await bench.ask()).cache == "miss"


async def test_a_change_in_another_collection_or_of_another_tenant_changes_nothing(
    bench: MemoryBench,
) -> None:
    await watched(bench)
    await bench.ask(collections=["vs_1"])
    await bench.changed("vs_2")
    await bench.changed("vs_1", tenant_id="rival")
    assert (await bench.ask(collections=["vs_1"])).cache == "exact"
    assert bench.retriever.started == 1


async def test_what_an_older_index_found_is_not_taken_for_current(bench: MemoryBench) -> None:
    """Search lags behind SQL: the answer was made before the change that the watch has seen already."""
    await watched(bench)
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
    await watched(bench)
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
    await watched(bench)
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
    await watched(bench)
    await bench.ask(model="writer", sampling=sampling)
    assert (await bench.ask(model="writer", sampling=sampling)).cache == cache


async def test_who_writes_has_the_conversation_in_the_key_and_who_quotes_has_not(bench: MemoryBench) -> None:
    await watched(bench)
    talk = [Turn("user", "Hello"), Turn("assistant", "Hello.")]
    for model, cache in (("fast", "exact"), ("writer", "miss")):
        await bench.ask(model=model)
        assert (await bench.ask(model=model, history=talk)).cache == cache


async def test_a_follow_up_is_met_by_what_it_means(bench: MemoryBench) -> None:
    await watched(bench)
    await bench.ask("How does a tide gate work?")
    gates = [Turn("user", QUESTION), Turn("assistant", "A tide gate lets water through. [1]")]
    locks = [Turn("user", "What is a canal lock?"), Turn("assistant", "A canal lock lifts boats. [1]")]
    assert (await bench.ask("How does it work?", history=gates)).cache == "exact"
    assert (await bench.ask("How does it work?", history=locks)).cache == "miss"


async def test_an_answer_that_broke_off_is_not_remembered(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.fail_with, bench.answerer.fail_at = UpstreamUnavailable("away"), 1
    with pytest.raises(UpstreamUnavailable):
        await bench.ask()
    bench.answerer.fail_with = None
    assert (await bench.ask()).cache == "miss"


async def test_an_answer_grows_old(tmp_path: Path) -> None:
    now = [1000.0]
    bench = MemoryBench(tmp_path, ttl_s=100, wall=lambda: now[0], chance=lambda: 0.5)
    bench.answers._wall = lambda: now[0]
    await watched(bench)
    await bench.ask()
    now[0] = 1080.0
    given = await bench.ask()
    assert (given.cache, given.cache_age_s) == ("exact", 80.0)
    now[0] = 1101.0
    assert (await bench.ask()).cache == "miss"
    bench.close()


async def test_an_answer_lives_as_long_as_its_shortest_collection_says(tmp_path: Path) -> None:
    now = [1000.0]
    lives = {"vs_1": 50.0, "vs_2": 10.0, "vs_3": 500.0}
    bench = MemoryBench(tmp_path, ttl_s=100, ttl_s_of=lives, wall=lambda: now[0], chance=lambda: 0.5)
    bench.answers._wall = lambda: now[0]
    await watched(bench)
    bench.retriever.passages = [passage(1, "A gate.", collection_id="vs_3")]
    await bench.ask(collections=["vs_3"])
    bench.retriever.passages = list(PASSAGES)  # of vs_1
    await bench.ask()
    await bench.ask(collections=["vs_1", "vs_2"])
    for at, alive in ((1009.0, [1, 1, 1]), (1011.0, [1, 1, 0]), (1051.0, [1, 0, 0]), (1101.0, [0, 0, 0])):
        now[0] = at
        asked = (["vs_3"], [], ["vs_1", "vs_2"])
        keys = [await bench.memory.recall(bench.request(QUESTION, collections=each), ROUTE) for each in asked]
        assert [int(key is not None and key.entry is not None) for key in keys] == alive, at
    bench.close()


async def test_one_request_makes_a_hot_answer_anew_before_it_runs_out(tmp_path: Path) -> None:
    now, luck = [1000.0], [0.5]
    bench = MemoryBench(tmp_path, ttl_s=100, wall=lambda: now[0], chance=lambda: luck[0])
    bench.answers._wall = lambda: now[0]
    await watched(bench)
    await bench.ask()
    now[0], luck[0] = 1095.0, 0.0
    assert (await bench.ask()).cache == "miss"
    now[0], luck[0] = 1110.0, 0.5
    assert (await bench.ask()).cache == "exact"
    bench.close()


# One piece of work, many readers.


async def test_five_hundred_cold_questions_are_one_piece_of_work(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.texts, bench.answerer.gap_s = [f"word{number} " for number in range(40)], 0.001
    sinks = [ListeningSink() for _ in range(500)]
    receipts = await asyncio.gather(*(bench.into(sink) for sink in sinks))
    assert (bench.answerer.started, bench.retriever.started) == (1, 1)
    assert {sink.text for sink in sinks} == {"".join(bench.answerer.texts)}
    assert sorted({receipt.cache for receipt in receipts}) == ["joined", "miss"]
    assert sum(receipt.outcome == "completed" for receipt in receipts) == 1
    assert {receipt.finish_reason for receipt in receipts} == {"stop"}


async def test_who_comes_late_gets_the_replay_and_then_what_comes(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.texts, bench.answerer.gap_s = ["a", "b", "c", "d"], 0.02
    early, late = ListeningSink(), ListeningSink()
    leading = asyncio.create_task(bench.into(early))
    await early.started.wait()
    joined = await bench.into(late)
    await leading
    assert (late.text, joined.cache, joined.outcome) == ("abcd", "joined", "cached")
    assert joined.passages[0]["file_id"] == PASSAGES[0].file_id


async def test_a_slow_reader_delays_nobody(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.texts = [f"{number} " for number in range(20)]
    slow = asyncio.create_task(bench.into(ListeningSink(gap_s=0.05)))
    await asyncio.sleep(0)
    started = time.monotonic()
    await bench.ask()
    assert time.monotonic() - started < 0.5
    assert not slow.done()
    await slow


async def test_the_first_one_may_leave_and_the_last_one_ends_the_work(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.texts, bench.answerer.gap_s = ["a", "b", "c", "d", "e"], 0.02
    first, second = ListeningSink(), ListeningSink()
    leader = asyncio.create_task(bench.into(first))
    await first.started.wait()
    follower = asyncio.create_task(bench.into(second))
    await second.started.wait()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert bench.answerer.cancelled == 0
    await follower
    assert second.text == "abcde"
    alone = asyncio.create_task(bench.into(third := ListeningSink(), "Another one?"))
    await third.started.wait()
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone
    assert (bench.answerer.cancelled, bench.queue.inflight) == (1, 0)
    assert [(record.outcome, record.cause) for record in bench.records][-1] == ("evicted", "client_gone")


async def test_whenever_the_first_one_leaves_no_answer_is_lost(bench: MemoryBench) -> None:
    await watched(bench)
    chance = random.Random(7)
    bench.answerer.texts, bench.answerer.gap_s = [f"{number} " for number in range(6)], 0.0005
    bench.retriever.delay_s = 0.0005
    whole = "".join(bench.answerer.texts)
    for number in range(200):
        sinks = [ListeningSink() for _ in range(4)]
        asked = [asyncio.create_task(bench.into(sink, f"Question {number}?")) for sink in sinks]
        await asyncio.sleep(chance.uniform(0, 0.006))
        asked[0].cancel()
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [sink.text for sink in sinks[1:]] == [whole] * 3
        assert all(isinstance(result, Receipt) for result in results[1:])
    assert bench.queue.inflight == 0


async def test_an_error_reaches_every_reader_and_is_not_remembered(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.fail_with, bench.answerer.delay_s = UpstreamUnavailable("away"), 0.02
    results = await asyncio.gather(*(bench.ask() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(result, UpstreamUnavailable) for result in results)
    assert bench.answerer.started <= 3  # the tier and those in its place
    assert {record.outcome for record in bench.records} == {"failed"}


async def test_who_has_more_time_than_the_first_one_goes_on_alone(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.delay_s = 0.15
    hurried = asyncio.create_task(bench.ask(deadline=time.monotonic() + 0.05, has_own_deadline=True))
    await asyncio.sleep(0.01)
    patient = await bench.ask()
    assert patient.finish_reason == "stop"
    with pytest.raises(Exception, match="deadline"):
        await hurried


async def test_tenants_never_share_work(bench: MemoryBench) -> None:
    await watched(bench)
    bench.answerer.delay_s = 0.02
    receipts = await asyncio.gather(*(bench.ask(tenant=Tenant(name)) for name in ("acme", "rival")))
    assert [receipt.cache for receipt in receipts] == ["miss", "miss"]
    assert bench.answerer.started == 2


# Near questions.


def near(bench: MemoryBench) -> None:
    """All questions have one vector, so that the guards and the evidence alone decide."""
    retrieve = bench.retriever.retrieve

    async def alike(text: str, scope: Any, *, timeout_s: float) -> Any:
        found = await retrieve("the same", scope, timeout_s=timeout_s)
        return msgspec.structs.replace(found)

    bench.retriever.retrieve = alike  # type: ignore[method-assign]


async def test_another_wording_gets_the_answer_when_evidence_and_guards_agree(bench: MemoryBench) -> None:
    await watched(bench)
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    given = await bench.ask("In what year was the fort rebuilt?")
    assert (given.cache, given.outcome, given.cache_agreement) == ("semantic", "cached", 1.0)
    assert given.cache_similarity == pytest.approx(1.0, abs=0.01)
    assert bench.answerer.started == 1


async def test_another_question_does_not_however_near_it_is(bench: MemoryBench) -> None:
    await watched(bench)
    near(bench)
    await bench.ask("How do I turn on the lamp?")
    assert (await bench.ask("How do I turn off the lamp?")).cache == "miss"
    count = bench.metrics.registry.get_sample_value(
        "tidegate_cache_objections_total", {"guard": "small_words"}
    )
    assert count == 1


async def test_other_evidence_makes_another_wording_a_miss(bench: MemoryBench) -> None:
    await watched(bench)
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    bench.retriever.passages = [passage(5, "The fort was rebuilt in 1964."), PASSAGES[1]]
    await bench.changed()
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "miss"


async def test_a_near_question_of_another_tenant_is_never_met(bench: MemoryBench) -> None:
    await watched(bench)
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    assert (await bench.ask("In what year was the fort rebuilt?", tenant=Tenant("rival"))).cache == "miss"


async def test_a_sample_of_hits_is_answered_anew_and_a_wrong_one_moves_the_threshold(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, chance=lambda: 0.01)
    await watched(bench)
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    for texts, result in ((None, "right"), (["Quite another answer."], "wrong")):
        bench.answerer.texts = texts
        wording = (
            "In what year was the fort rebuilt?"
            if texts is None
            else "Please tell me: When was the fort rebuilt?"
        )
        given = await bench.ask(wording)
        assert given.cache == "semantic"
        while bench.memory._checks.tasks:
            await asyncio.wait(bench.memory._checks.tasks)
        read = bench.metrics.registry.get_sample_value
        assert read("tidegate_cache_checked_total", {"result": result}) == 1
    assert bench.answerer.started == 3
    assert bench.memory.thresholds.num_wrong == 1
    assert bench.memory.thresholds.bound < 1
    assert len(bench.records) == 3  # nobody is told of a check, and nobody pays for it


async def test_without_a_budget_only_the_same_question_is_met(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, thresholds=Thresholds(0.0))
    await watched(bench)
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "miss"
    bench.close()
