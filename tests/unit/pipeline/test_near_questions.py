"""Near questions: another wording gets the answer where evidence and guards agree, and hits are checked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.admission.waiting import Permit
from gateway.caching.threshold import Thresholds
from gateway.pipeline.handover import Trail
from gateway.types import Tenant
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import MemoryBench
from tests.waiting import until


def near(bench: MemoryBench, meaning: Callable[[str], str] = lambda _: "the same") -> None:
    """All questions of one meaning have one vector, so that the guards and the evidence alone decide."""
    retrieve = bench.retriever.retrieve

    async def alike(text: str, scope: Any, **how: Any) -> Any:
        found = await retrieve(meaning(text), scope, **how)
        return msgspec.structs.replace(found)

    bench.retriever.retrieve = alike  # type: ignore[method-assign]


async def test_another_wording_gets_the_answer_when_evidence_and_guards_agree(bench: MemoryBench) -> None:
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    given = await bench.ask("In what year was the fort rebuilt?")
    assert (given.cache, given.outcome, given.cache_agreement) == ("semantic", "cached", 1.0)
    assert given.cache_similarity == pytest.approx(1.0, abs=0.01)
    assert bench.answerer.started == 1


async def test_another_question_does_not_however_near_it_is(bench: MemoryBench) -> None:
    near(bench)
    await bench.ask("How do I turn on the lamp?")
    assert (await bench.ask("How do I turn off the lamp?")).cache == "miss"
    count = bench.metrics.registry.get_sample_value(
        "tidegate_cache_objections_total", {"guard": "small_words"}
    )
    assert count == 1


async def test_other_evidence_makes_another_wording_a_miss(bench: MemoryBench) -> None:
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    bench.retriever.passages = [passage(5, "The fort was rebuilt in 1964."), PASSAGES[1]]
    await bench.changed()
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "miss"


async def test_a_near_question_of_another_tenant_is_never_met(bench: MemoryBench) -> None:
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    assert (await bench.ask("In what year was the fort rebuilt?", tenant=Tenant("rival"))).cache == "miss"


async def test_a_sample_of_hits_is_answered_anew_and_a_wrong_one_moves_the_threshold(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, chance=lambda: 0.01)
    await bench.watch.look()
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
        await checked(bench)
        read = bench.metrics.registry.get_sample_value
        assert read("tidegate_cache_checked_total", {"result": result}) == 1
    assert bench.answerer.started == 3
    assert bench.memory.thresholds.checked.num_wrong == 1
    assert bench.memory.thresholds.checked.bound < 1
    assert len(bench.records) == 3  # nobody is told of a check, and nobody pays for it


async def test_a_check_leaves_no_trace_in_what_a_client_could_go_on_with(tmp_path: Path) -> None:
    """Its client may still be reading the hit, and has nothing of the answer that is made to compare."""
    bench = MemoryBench(tmp_path, chance=lambda: 0.01)
    await bench.watch.look()
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    trail = Trail()
    assert (await bench.ask("In what year was the fort rebuilt?", trail=trail)).cache == "semantic"
    await checked(bench)
    assert bench.answerer.started == 2
    assert trail.evidence is None  # which only a tier at work writes down
    bench.close()


async def test_without_a_budget_only_the_same_question_is_met(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, thresholds=Thresholds(0.0))
    await bench.watch.look()
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "miss"
    bench.close()


async def taken(bench: MemoryBench) -> Permit:
    return await bench.queue.acquire(band="interactive", deadline=time.monotonic() + 10)


async def checked(bench: MemoryBench) -> None:
    while bench.memory._checks.tasks:
        await asyncio.wait(bench.memory._checks.tasks)


@pytest.mark.parametrize("num_waiting", [0, 1], ids=["all slots are taken", "somebody waits"])
async def test_a_hit_is_checked_only_where_a_slot_is_free(tmp_path: Path, num_waiting: int) -> None:
    bench = MemoryBench(tmp_path, num_slots=2, chance=lambda: 0.01)
    await bench.watch.look()
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    bench.retriever.delay_s = 0.1
    others = [await taken(bench)]
    hit = asyncio.create_task(bench.ask("In what year was the fort rebuilt?"))
    await until(lambda: bench.queue.inflight == 2)
    coming = [asyncio.create_task(taken(bench)) for _ in range(1 + num_waiting)]
    assert (await asyncio.wait_for(hit, 5)).cache == "semantic"
    others.append(await asyncio.wait_for(coming.pop(0), 5))  # the slot that the hit gave back
    assert (bench.queue.inflight, bench.queue.num_waiting) == (2, num_waiting)
    await checked(bench)
    assert bench.answerer.started == 1
    for other in others:
        other.release()
    for other in coming:
        (await asyncio.wait_for(other, 5)).release()
    assert (await bench.ask("Please tell me: When was the fort rebuilt?")).cache == "semantic"
    await checked(bench)
    assert bench.answerer.started == 2
    bench.close()
