"""An answer whose slot is asked back, at whatever moment: each word once, each token once, each citation once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.admission.waiting import Permit, Slot
from gateway.errors import TidegateError, UpstreamUnavailable
from gateway.pipeline.interrupted import unbroken
from gateway.types import Citation, Delta, Inquiry

WORDS = ["A ", "tide ", "gate ", "", "[1] ", "turns", "."]
SAID = "".join(WORDS)
CITED = Citation(passage=1, start=0, end=4, text="gate")


class Writer:
    """Writes WORDS, a token each; goes on after `ids`, of which it gives what was said at once, as a real one does.

    Its words may come later than their tokens: the fourth gives no text yet, as where a mark is being read.
    """

    def __init__(self, words: list[str] | None = None) -> None:
        self.words = words or WORDS
        self.asked: list[Inquiry] = []
        self.num_running = 0
        self.num_made = 0

    async def answer(self, inquiry: Inquiry) -> AsyncIterator[Delta]:
        self.asked.append(inquiry)
        self.num_running += 1
        try:
            begun = len(inquiry.ids)
            yield Delta(num_passages=1, num_input_tokens=3)
            if begun:
                text = "".join(self.words[:begun])
                cited = [CITED] if "[1]" in text else []
                yield Delta(text=text, citations=cited, ids=inquiry.ids, said=text, num_output_tokens=begun)
            for number, word in enumerate(self.words[begun:], begun):
                await asyncio.sleep(0)
                self.num_made += 1
                cited = [CITED] if "[1]" in word else []
                ids = bytes([number])
                yield Delta(text=word, citations=cited, ids=ids, said=word, num_output_tokens=number + 1)
            await asyncio.sleep(0)
            yield Delta(finish_reason="stop", num_input_tokens=3, num_output_tokens=len(self.words))
        finally:
            self.num_running -= 1


class Course:
    """One answer. ring_at: its slots are asked back before these steps of the event loop."""

    def __init__(self, writer: Writer, ring_at: set[int]) -> None:
        self.writer, self.ring_at = writer, ring_at
        self.slot, self.num_again = Slot(), 0
        self.deltas: list[Delta] = []
        self._take()

    def _take(self) -> None:
        self.slot.take(Permit(lambda _: None), 1)

    async def again(self) -> None:
        assert self.writer.num_running == 0, "the engine is left before the slot is given back"
        self.num_again += 1
        await asyncio.sleep(0)
        self._take()

    async def _ring(self) -> None:
        for step in range(max(self.ring_at, default=0) + 1):
            if step in self.ring_at and self.slot.permit is not None:
                self.slot.permit.recall()
            await asyncio.sleep(0)

    async def run(self) -> None:
        ringing = asyncio.create_task(self._ring())
        async for delta in unbroken(Inquiry(question="?"), self.writer.answer, self.slot, self.again):
            self.deltas.append(delta)
            await asyncio.sleep(0)  # as a client that reads
        await ringing


@pytest.mark.parametrize("second", [None, 3, 9], ids=str)
@pytest.mark.parametrize("first", range(26), ids=str)
async def test_an_answer_is_whole_whenever_its_slot_is_asked_back(first: int, second: int | None) -> None:
    course = Course(Writer(), {first} if second is None else {first, first + second})
    await asyncio.wait_for(course.run(), 5)
    deltas = course.deltas
    assert "".join(each.text for each in deltas) == SAID
    assert "".join(each.said for each in deltas) == SAID
    assert b"".join(each.ids for each in deltas) == bytes(range(len(WORDS)))
    assert [each for delta in deltas for each in delta.citations] == [CITED]
    assert [each.finish_reason for each in deltas if each.finish_reason] == ["stop"]
    assert deltas[-1].num_output_tokens == len(WORDS)
    assert len(course.writer.asked) == course.num_again + 1
    assert course.writer.num_made <= len(WORDS) + course.num_again, "only what was not given is made again"


async def test_an_answer_that_has_ended_is_not_broken_off() -> None:
    writer = Writer()
    course = Course(writer, set())
    async for delta in unbroken(Inquiry(question="?"), writer.answer, course.slot, course.again):
        if delta.finish_reason and course.slot.permit is not None:
            course.slot.permit.recall()
    assert (course.num_again, writer.num_running) == (0, 0)


async def test_a_slot_that_is_asked_back_at_once_has_made_nothing() -> None:
    course = Course(Writer(), set())
    assert course.slot.permit is not None
    course.slot.permit.recall()
    await course.run()
    assert (course.num_again, course.writer.num_made) == (1, len(WORDS))


@pytest.mark.parametrize("words", [["An", " ", "iron gate"], ["A "]], ids=["other words", "an earlier end"])
async def test_an_answer_that_would_be_another_one_ends_with_an_error(words: list[str]) -> None:
    course = Course(Writer(), {9})
    again = course.again

    async def otherwise() -> None:
        await again()
        course.writer.words = words
        course.writer.answer = Forgetful(words).answer  # type: ignore[method-assign]

    course.again = otherwise  # type: ignore[method-assign]
    with pytest.raises(TidegateError) as ended:
        await course.run()
    assert ended.value.code == "stream_diverged"


class Forgetful(Writer):
    async def answer(self, inquiry: Inquiry) -> AsyncIterator[Delta]:
        for word in self.words:
            yield Delta(text=word)
        yield Delta(finish_reason="stop")


@pytest.mark.parametrize("after", range(16), ids=str)
async def test_who_is_cancelled_leaves_the_engine(after: int) -> None:
    course = Course(Writer(), {5})
    task = asyncio.create_task(course.run())
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0)
    assert course.writer.num_running == 0


async def test_what_fails_is_told_as_it_is() -> None:
    course = Course(Writer(), set())

    async def failing(inquiry: Inquiry) -> AsyncIterator[Delta]:
        yield Delta(text="A ")
        raise UpstreamUnavailable("away")

    with pytest.raises(UpstreamUnavailable):
        async for _ in unbroken(Inquiry(question="?"), failing, course.slot, course.again):
            pass


async def test_a_time_limit_of_the_engine_is_not_taken_for_the_bell() -> None:
    course = Course(Writer(), set())

    async def late(inquiry: Inquiry) -> AsyncIterator[Delta]:
        yield Delta(text="A ")
        raise TimeoutError

    with pytest.raises(TimeoutError):
        async for _ in unbroken(Inquiry(question="?"), late, course.slot, course.again):
            pass
