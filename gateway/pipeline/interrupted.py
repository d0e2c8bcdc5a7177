"""An answer that is broken off when its slot is asked back, and goes on from its tokens when it has one again.

What was given already is left out of what comes after, and compared on the way; so no word is lost or doubled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import msgspec

from gateway.admission.waiting import Permit, Slot
from gateway.pipeline.handover import diverged
from gateway.types import Delta, Inquiry

MAX_TIMES = 3  # that one answer is broken off: each costs it a wait, and the engine its prompt


class _AskedBack(Exception):
    """The slot is wanted for somebody else."""


async def unbroken(
    inquiry: Inquiry,
    begin: Callable[[Inquiry], AsyncIterator[Delta]],
    slot: Slot,
    again: Callable[[], Awaitable[None]],
) -> AsyncIterator[Delta]:
    """The steps of an answer, each once, over as many slots as it needs.

    begin: the answer to an inquiry, from its beginning. again: gives the slot back and waits for another one.
    Raises: what the two do; UpstreamError (`stream_diverged`) where the tier would now write another answer.
    """
    so_far = _SoFar(inquiry)
    while True:
        try:
            async with aclosing(cast(Any, begin(so_far.inquiry()))) as answer:
                async for delta in _until_asked_back(answer, slot.permit):
                    yield so_far.fresh(delta)
            return
        except _AskedBack:
            so_far.break_off()
        await again()


async def _until_asked_back(answer: AsyncIterator[Delta], permit: Permit | None) -> AsyncIterator[Delta]:
    """Raises: _AskedBack, also while it waits for the engine; never while a client reads."""
    bell = _Bell()
    if permit is not None:
        permit.on_recall(bell.ring)
    while not bell.has_rung:
        try:
            async with asyncio.timeout(None) as sleep:
                bell.sleep = sleep
                try:
                    delta = await anext(answer)
                finally:
                    bell.sleep = None
        except StopAsyncIteration:
            return
        except TimeoutError:
            if not sleep.expired():
                raise
            break
        yield delta
        if delta.finish_reason:
            return
    raise _AskedBack


class _Bell:
    """Wakes whoever waits for the engine. sleep: of such a wait, None = nobody does."""

    def __init__(self) -> None:
        self.has_rung = False
        self.sleep: asyncio.Timeout | None = None

    def ring(self) -> None:
        self.has_rung = True
        if self.sleep is not None:
            self.sleep.reschedule(0.0)


class _SoFar:
    """What was given of an answer. The engine's own tokens and words are what it goes on from."""

    def __init__(self, inquiry: Inquiry) -> None:
        self._inquiry = inquiry
        self._ids, self._said, self._num_tokens = bytearray(), [""], 0
        self._texts: list[str] = []
        self._num_citations = 0
        self._known = Delta()  # of it, what the answer that runs now has not come to yet
        self._num_known_citations = 0

    def inquiry(self) -> Inquiry:
        said = "".join(self._said)
        if not said and not self._ids:
            return self._inquiry
        return msgspec.structs.replace(
            self._inquiry, ids=bytes(self._ids), said=said, num_said=self._num_tokens
        )

    def break_off(self) -> None:
        """The next answer begins from the beginning."""
        text, said = "".join(self._texts), "".join(self._said)
        self._known = Delta(text=text, ids=bytes(self._ids), said=said)
        self._num_known_citations = self._num_citations

    def fresh(self, delta: Delta) -> Delta:
        """What is new in a step. Raises: UpstreamError where it is not what was given before."""
        if self._known.text or self._known.ids or self._known.said or self._num_known_citations:
            delta = self._without_known(delta)
        self._ids += delta.ids
        if delta.said:
            self._said.append(delta.said)
        if delta.text:
            self._texts.append(delta.text)
        self._num_citations += len(delta.citations)
        self._num_tokens = max(self._num_tokens, delta.num_output_tokens)
        return delta

    def _without_known(self, delta: Delta) -> Delta:
        known = self._known
        text, ids = _rest(known.text, delta.text), _rest(known.ids, delta.ids)
        said = _rest(known.said, delta.said)
        if delta.finish_reason and len(known.text) > len(delta.text):
            raise diverged()
        num_known = min(self._num_known_citations, len(delta.citations))
        self._num_known_citations -= num_known
        self._known = Delta(
            text=known.text[len(delta.text) :],
            ids=known.ids[len(delta.ids) :],
            said=known.said[len(delta.said) :],
        )
        return msgspec.structs.replace(
            delta, text=text, ids=ids, said=said, citations=delta.citations[num_known:]
        )


def _rest(known: Any, given: Any) -> Any:
    """What is new in it. Raises: UpstreamError."""
    begin = known[: len(given)]
    if given[: len(begin)] != begin:
        raise diverged()
    return given[len(begin) :]
