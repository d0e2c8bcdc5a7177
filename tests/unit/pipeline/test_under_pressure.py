"""What is remembered, while the ladder's steps are in force."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from gateway.errors import Rejected
from gateway.pipeline.remember import LABEL
from gateway.tiering.ladder import Orders, Step
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import MemoryBench
from tests.fakes.pipelines import ListeningSink
from tests.unit.pipeline.test_near_questions import near

ASKED, LIKE_IT = "When was the fort rebuilt?", "In what year was the fort rebuilt?"
OPPOSITE = "When was the fort not rebuilt?"


def press(bench: MemoryBench, *steps: Step) -> None:
    bench.pipeline.ladders.orders = Orders(pinned=list(steps))


async def fill(bench: MemoryBench) -> ExitStack:
    """Nobody else gets a slot."""
    held = ExitStack()
    while not bench.queue.is_crowded:
        held.enter_context(await bench.queue.acquire(band="interactive", deadline=time.monotonic() + 5))
    return held


async def test_an_answer_made_in_calm_is_given_whole_under_pressure(bench: MemoryBench) -> None:
    calm, pressed = ListeningSink(), ListeningSink()
    await bench.into(calm, ASKED, model="writer")
    press(bench, Step.FEWER_PASSAGES, Step.SHORTER_ANSWERS)
    receipt = await bench.into(pressed, ASKED, model="writer")
    assert (receipt.cache, receipt.degraded, pressed.text) == ("exact", [], calm.text)
    assert bench.answerer.started == 1


async def test_what_is_remembered_is_given_to_those_who_would_be_refused(bench: MemoryBench) -> None:
    await bench.ask(ASKED, model="writer")
    press(bench, Step.REFUSE)
    receipt = await bench.ask(ASKED, model="writer")
    assert (receipt.cache, receipt.degraded) == ("exact", [])
    with pytest.raises(Rejected) as refused:
        await bench.ask(OPPOSITE, model="writer")
    assert refused.value.code == "overloaded"
    assert (bench.records[-1].outcome, bench.records[-1].degraded) == ("rejected", ["refuse"])
    assert bench.answerer.started == 1


async def test_an_answer_from_calm_times_is_not_given_once_its_collections_changed(
    bench: MemoryBench,
) -> None:
    await bench.ask(ASKED, model="writer")
    press(bench, Step.SHORTER_ANSWERS)
    bench.retriever.passages = [passage(5, "The gate opens at ebb."), PASSAGES[1]]
    await bench.changed()
    assert (await bench.ask(ASKED, model="writer")).cache == "miss"
    assert bench.answerer.started == 2


async def test_what_was_shortened_is_not_given_in_calm(bench: MemoryBench) -> None:
    press(bench, Step.SHORTER_ANSWERS)
    await bench.ask(ASKED, model="writer")
    press(bench)
    assert (await bench.ask(ASKED, model="writer")).cache == "miss"


async def test_a_similar_question_gets_the_answer_labelled_and_needs_no_slot(bench: MemoryBench) -> None:
    near(bench)
    calm, labelled = ListeningSink(), ListeningSink()
    await bench.into(calm, ASKED, model="writer")
    press(bench, Step.CACHED_NEIGHBOUR)
    bench.memory.thresholds.budget = 0.0  # by itself another wording would not do
    with await fill(bench):
        receipt = await asyncio.wait_for(bench.into(labelled, LIKE_IT, model="writer"), 5)
    assert labelled.text == LABEL + calm.text
    assert (receipt.cache, receipt.outcome, receipt.degraded) == ("neighbour", "cached", ["cached_neighbour"])
    assert receipt.cache_similarity == pytest.approx(1.0, abs=0.01)
    assert bench.answerer.started == 1


def other_evidence(bench: MemoryBench) -> None:
    bench.retriever.passages = [passage(5, "The gate opens at ebb."), PASSAGES[1]]


def other_meaning(bench: MemoryBench) -> None:
    near(bench, lambda text: text)


@pytest.mark.parametrize(
    ("question", "change", "fields"),
    [
        pytest.param(OPPOSITE, lambda _: None, {}, id="a guard objects"),
        pytest.param(LIKE_IT, other_evidence, {}, id="what it quotes was not found"),
        pytest.param("Who feeds the otters?", other_meaning, {}, id="nothing is like it"),
        pytest.param(LIKE_IT, lambda _: None, {"cache": "off"}, id="off"),
        pytest.param(LIKE_IT, lambda _: None, {"cache": "refresh"}, id="refresh"),
        pytest.param(LIKE_IT, lambda _: None, {"model": "fast"}, id="a tier that quotes"),
    ],
)
async def test_others_get_an_answer_of_their_own(
    bench: MemoryBench, question: str, change: Callable[[MemoryBench], Any], fields: dict[str, Any]
) -> None:
    fields = {"model": "writer", **fields}
    near(bench)
    await bench.ask(ASKED, model=fields["model"])
    bench.memory.thresholds.budget = 0.0
    press(bench, Step.CACHED_NEIGHBOUR)
    change(bench)
    receipt = await bench.ask(question, **fields)
    assert (receipt.outcome, receipt.degraded) == ("completed", [])
    assert bench.answerer.started == 2
