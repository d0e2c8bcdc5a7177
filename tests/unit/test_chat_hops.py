"""Questions of two parts through the pipeline: a small corpus, the real planner and the real reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from gateway.errors import Evicted, Rejected, TidegateError, UpstreamUnavailable
from gateway.generation.extractive import ReaderParams, answer, deltas
from gateway.language.question import read
from gateway.language.terms import stems
from gateway.ports import Retrieved
from gateway.retrieval.rerank import reranked
from gateway.types import Delta, Inquiry, Passage, Scope
from tests.fakes.engines import passage, vectors
from tests.unit.test_chat import Bench

CORPUS = [
    passage(
        1, "The iron bridge over the Lune was designed by the architect Anna Berg. It was opened in 1901."
    ),
    passage(2, "Anna Berg was born in Kiel. She studied in Prague."),
    passage(3, "The park has two ponds. Dogs must be kept on a lead."),
    passage(4, "The mill ground flour for the valley."),
]


@dataclass
class SmallCorpus:
    """Finds the one passage that shares most terms with a text: so narrow that a second part needs a second search."""

    fail_from: int = 99
    fail_with: Exception = field(default_factory=lambda: UpstreamUnavailable("away"))
    texts: list[str] = field(default_factory=list)

    async def retrieve(self, text: str, scope: Scope, *, timeout_s: float, **known: Any) -> Retrieved:
        self.texts.append(text)
        if len(self.texts) > self.fail_from:
            raise self.fail_with
        terms = set(read(text).terms)
        best = sorted(CORPUS, key=lambda each: -len(terms & set(stems(each.text))))
        return Retrieved(vectors([text])[0], reranked(text, best[:1], scope.k), 1.0, 1.0)


class Reader:
    async def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        for delta in deltas(answer(inquiry.question, passages, ReaderParams(parts=inquiry.parts))):
            yield delta


def bench_over(corpus: SmallCorpus) -> Bench:
    return Bench(retriever=corpus, answerer=Reader())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("question", "held"),
    [
        ("Who designed the iron bridge and how many ponds does the park have?", ["Anna Berg", "two ponds"]),
        ("Where was the architect of the iron bridge born?", ["Kiel"]),
    ],
    ids=["joined", "bridge"],
)
async def test_deep_looks_again_and_answers_both_parts(question: str, held: list[str]) -> None:
    corpus = SmallCorpus()
    bench = bench_over(corpus)
    receipt = await bench.run(model="deep", question=question)
    assert all(text in bench.text for text in held)
    assert receipt.hops == len(corpus.texts) == 2
    assert [shown["n"] for shown in receipt.passages] == [1, 2]
    assert receipt.finish_reason == "stop"


async def test_fast_searches_once() -> None:
    corpus = SmallCorpus()
    receipt = await bench_over(corpus).run(
        model="fast", question="Who designed the iron bridge and how many ponds does the park have?"
    )
    assert receipt.hops == len(corpus.texts) == 1


async def test_a_question_of_one_part_is_searched_once_by_deep_too() -> None:
    corpus = SmallCorpus()
    receipt = await bench_over(corpus).run(model="deep", question="When was the iron bridge opened?")
    assert receipt.hops == len(corpus.texts) == 1


@pytest.mark.parametrize(
    "error", [UpstreamUnavailable("away"), Rejected("full"), Evicted("it waited too long")], ids=repr
)
async def test_a_second_hop_that_fails_costs_only_what_it_would_have_found(error: TidegateError) -> None:
    bench = bench_over(SmallCorpus(fail_from=1, fail_with=error))
    receipt = await bench.run(
        model="deep", question="Who designed the iron bridge and how many ponds does the park have?"
    )
    assert receipt.outcome == "completed"
    assert receipt.hops == 1
    assert "Anna Berg" in bench.text


class SlowForOne(SmallCorpus):
    """The search for the submarine takes its time, that for the zeppelin fails at once."""

    num_running = 0

    async def retrieve(self, text: str, scope: Scope, **how: Any) -> Retrieved:  # type: ignore[override]
        if len(self.texts) > 0 and "zeppelin" in text:
            raise UpstreamUnavailable("away")
        self.num_running += 1
        try:
            await asyncio.sleep(0.05 if len(self.texts) > 0 else 0)
            return await super().retrieve(text, scope, **how)
        finally:
            self.num_running -= 1


async def test_of_two_further_searches_none_goes_on_when_the_other_has_failed() -> None:
    """It would hold a place in the line of searches for nobody."""
    corpus = SlowForOne()
    bench = bench_over(corpus)
    running: list[int] = []
    stage = bench.stage

    async def told(name: str) -> None:
        running.append(corpus.num_running)
        await stage(name)

    bench.stage = told  # type: ignore[method-assign]
    receipt = await bench.run(
        model="deep", question="What is the difference between the zeppelin and the submarine?"
    )
    assert (receipt.outcome, receipt.hops) == ("completed", 1)
    assert len(corpus.texts) == 2  # both were asked for
    assert set(running) == {0}


async def test_the_part_without_evidence_is_not_made_up() -> None:
    bench = bench_over(SmallCorpus())
    await bench.run(model="deep", question="Who designed the iron bridge and who piloted the zeppelin?")
    assert "Anna Berg" in bench.text
    assert "zeppelin" not in bench.text
