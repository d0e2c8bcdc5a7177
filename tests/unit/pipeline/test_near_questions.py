"""Near questions: another wording gets the answer where evidence and guards agree, and hits are checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.caching.threshold import Thresholds
from gateway.types import Tenant
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import MemoryBench


def near(bench: MemoryBench, meaning: Callable[[str], str] = lambda _: "the same") -> None:
    """All questions of one meaning have one vector, so that the guards and the evidence alone decide."""
    retrieve = bench.retriever.retrieve

    async def alike(text: str, scope: Any, *, timeout_s: float) -> Any:
        found = await retrieve(meaning(text), scope, timeout_s=timeout_s)
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
        while bench.memory._checks.tasks:
            await asyncio.wait(bench.memory._checks.tasks)
        read = bench.metrics.registry.get_sample_value
        assert read("tidegate_cache_checked_total", {"result": result}) == 1
    assert bench.answerer.started == 3
    assert bench.memory.thresholds.checked.num_wrong == 1
    assert bench.memory.thresholds.checked.bound < 1
    assert len(bench.records) == 3  # nobody is told of a check, and nobody pays for it


async def test_without_a_budget_only_the_same_question_is_met(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, thresholds=Thresholds(0.0))
    await bench.watch.look()
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "miss"
    bench.close()
