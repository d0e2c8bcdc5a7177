"""What is left of an unfinished answer, and how its rest is told from its beginning."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from gateway.errors import UpstreamError
from gateway.pipeline.handover import AfterEarlier, Earlier, Left, Trail, decode, digest, rest_of
from gateway.pipeline.request import ChatRequest, Evidence
from gateway.types import Citation, Delta, Outcome, Receipt, Sampling, Tenant, Usage
from tests.fakes.engines import PASSAGES

CITATION = Citation(passage=1, start=0, end=3, text="The")
REQUEST = ChatRequest(
    id="chatcmpl-1",
    tenant=Tenant("acme"),
    model="auto",
    question="What?",
    received=0.0,
    deadline=9.0,
    created=5,
)


class Heard:
    """A sink that keeps what it is told."""

    def __init__(self) -> None:
        self.deltas: list[tuple[str, int]] = []

    def chosen(self, tier: str) -> None: ...

    async def stage(self, name: str) -> None: ...

    def waiting(self, position: int, eta_s: float) -> None: ...

    async def delta(self, text: str, citations: list[Citation], passages: Any) -> None:
        self.deltas.append((text, len(citations)))


def trail_of(*texts: str, first_event: int = 1) -> Trail:
    trail = Trail()
    for number, text in enumerate(texts, first_event):
        trail.sent(number, text, 1 if text.endswith("]") else 0)
    return trail


def after(earlier: Earlier, *deltas: tuple[str, int]) -> list[tuple[str, int]]:
    """What a client gets of an answer that is made again."""
    heard = Heard()
    rest = AfterEarlier(heard, earlier)

    async def play() -> None:
        for text, num_citations in deltas:
            await rest.delta(text, [CITATION] * num_citations, PASSAGES)

    asyncio.run(play())
    rest.check_whole()
    return heard.deltas


def test_what_is_left_survives_its_journey() -> None:
    trail = trail_of("One ", "two [1]")
    trail.stands_on("fast", ["no_rerank"], Evidence(PASSAGES, ["What?"]))
    trail.made(Delta(text="One ", ids=b"\1\0\0\0", said="One "))
    trail.receipt = Receipt(id="x", created=5, outcome=Outcome.FAILED, usage=Usage(7, 2))
    trail.placed(lambda: "t")
    left = trail.left(REQUEST)
    assert decode(left.encoded()) == left
    assert (left.tier, left.steps, left.text, left.created) == ("fast", ["no_rerank"], "One two [1]", 5)
    assert (left.ids, left.said, left.usage, left.ticket) == (b"\1\0\0\0", "One ", Usage(7, 2), "t")
    assert (left.passages, left.parts) == (PASSAGES, ["What?"])


def test_who_is_cut_before_it_went_on_leaves_what_it_was_left() -> None:
    trail = trail_of("One ", "two [1]")
    trail.stands_on("fast", ["no_rerank"], Evidence(PASSAGES, ["What?"]))
    trail.made(Delta(text="One ", ids=b"\1\0\0\0", said="One "))
    first = trail.left(REQUEST)
    again = Trail(first.after("chatcmpl-1", 9)).left(REQUEST)
    assert again == msgspec.structs.replace(first, marks=again.marks)
    assert again.after("chatcmpl-2", 0).text == "One two [1]"


@pytest.mark.parametrize(
    ("event", "text", "num_citations"),
    [(0, "", 0), (2, "", 0), (3, "One ", 0), (4, "One two [1]", 1), (99, "One two [1]", 1)],
    ids=["nothing", "a notice", "first", "second", "the error"],
)
def test_a_client_has_what_its_last_event_says(event: int, text: str, num_citations: int) -> None:
    left = trail_of("One ", "two [1]", first_event=3).left(REQUEST)
    earlier = left.after("chatcmpl-1", event)
    assert (earlier.text, earlier.num_citations) == (text, num_citations)


def test_a_second_worker_leaves_all_of_the_answer() -> None:
    first = trail_of("One ", "two [1]").left(REQUEST)
    trail = Trail(first.after("chatcmpl-1", 1))
    trail.sent(1, "two ", 0)
    trail.sent(2, "[1]", 1)
    second = trail.left(REQUEST).after("chatcmpl-2", 1)
    assert (second.text, second.num_citations) == ("One two ", 0)


EARLIER = Earlier("chatcmpl-1", Left(asked=b""), "One two [1]", 1)


@pytest.mark.parametrize(
    ("deltas", "rest"),
    [
        ([("One ", 0), ("two [1]", 1), (" three [2]", 1)], [(" three [2]", 1)]),
        ([("One two [1] three", 1), (" [2]", 1)], [(" three", 0), (" [2]", 1)]),
        ([("One two [1]", 1)], []),
        ([("One two ", 0), ("[1] thr", 1), ("ee", 0)], [(" thr", 0), ("ee", 0)]),
    ],
    ids=["same steps", "one large step", "nothing new", "other steps"],
)
def test_only_the_rest_is_passed_on(deltas: list[tuple[str, int]], rest: list[tuple[str, int]]) -> None:
    assert after(EARLIER, *deltas) == rest


@pytest.mark.parametrize(
    "deltas",
    [[("One three", 0)], [("Two", 0)], [("One ", 0), ("two [2]", 1)], [("One ", 0)], []],
    ids=["other word", "other start", "other mark", "too short", "empty"],
)
def test_another_answer_is_never_joined_to_the_first(deltas: list[tuple[str, int]]) -> None:
    with pytest.raises(UpstreamError) as diverged:
        after(EARLIER, *deltas)
    assert diverged.value.code == "stream_diverged"


@pytest.mark.parametrize(
    "change",
    [{"question": "Who?"}, {"collections": ["vs_1"]}, {"top_k": 3}, {"sampling": Sampling(seed=1)}],
    ids=lambda change: next(iter(change)),
)
def test_another_request_is_told_from_the_one_that_began(change: dict[str, Any]) -> None:
    assert digest(msgspec.structs.replace(REQUEST, **change)) != digest(REQUEST)
    assert digest(msgspec.structs.replace(REQUEST, id="x", model="fast", deadline=1.0)) == digest(REQUEST)


def test_what_was_billed_is_not_billed_again() -> None:
    billed = Earlier("chatcmpl-1", Left(asked=b"", usage=Usage(7, 4)), "", 0)
    assert rest_of(Usage(7, 10), billed) == Usage(0, 6)
    assert rest_of(Usage(7, 3), billed) == Usage(0, 0)
    assert rest_of(Usage(7, 3), None) == Usage(7, 3)


def test_usage_adds_up_over_several_workers() -> None:
    trail = Trail(Earlier("chatcmpl-1", Left(asked=b"", usage=Usage(7, 4)), "abc", 0))
    trail.receipt = Receipt(id="x", created=5, outcome=Outcome.FAILED, usage=Usage(0, 2))
    assert trail.left(REQUEST).usage == Usage(7, 6)
