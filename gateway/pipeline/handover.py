"""What a worker that must stop leaves of an unfinished answer, so that another one goes on where its client stands.

The answer is made again: by the same tier, on the same evidence, and a tier that writes is given its own tokens to go
on from. What the client has already is left out, and compared on the way: where the answer would now be another one,
it ends with an error, and never as a text of two halves. Pure; who keeps it in between is the caller's business.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import UpstreamError
from gateway.types import Citation, Delta, Passage, Receipt, Sampling, Usage

if TYPE_CHECKING:
    from gateway.pipeline.request import ChatRequest, Evidence, Sink

_encode = msgspec.msgpack.Encoder().encode
_KINDS = 3  # numbers of one mark


class Trail:
    """Of one request under way: what its answer stands on, and what it is made of so far. `marks`: for each event with
    text its number, the characters up to its end, and the citations."""

    def __init__(self, earlier: Earlier | None = None) -> None:
        self.tier = ""
        self.steps: list[str] = []
        self.evidence: Evidence | None = None
        self.receipt: Receipt | None = None
        self._ticket: Callable[[], str] | None = None
        self.texts: list[str] = [earlier.text] if earlier else []
        self.num_chars = len(earlier.text) if earlier else 0
        self.num_citations = earlier.num_citations if earlier else 0
        self.marks = array("I", (0, self.num_chars, self.num_citations))
        self._before = earlier.left if earlier else NOTHING_LEFT  # holds until there is more
        self._ids = bytearray()
        self._said: list[str] = []

    def placed(self, ticket: Callable[[], str]) -> None:
        """It has a place in line, or a slot. ticket: makes one that keeps the place."""
        self._ticket = ticket

    def ticket(self) -> str:
        """For whoever must leave its place through no fault of its own; "" where there is none."""
        return self._ticket() if self._ticket is not None else ""

    def chosen(self, tier: str) -> None:
        self.tier = tier

    def stands_on(self, tier: str, steps: Sequence[str], evidence: Evidence) -> None:
        self.tier, self.steps, self.evidence = tier, list(steps), evidence

    def made(self, delta: Delta) -> None:
        """One step of the engine, in its own tokens and words."""
        if delta.ids:
            self._ids += delta.ids
            self._said.append(delta.said)

    def sent(self, event: int, text: str, num_citations: int) -> None:
        """One event that the client is to get."""
        self.texts.append(text)
        self.num_chars += len(text)
        self.num_citations += num_citations
        self.marks.extend((event, self.num_chars, self.num_citations))

    def left(self, request: ChatRequest) -> Left:
        used = self.receipt.usage if self.receipt is not None else Usage()
        before, evidence = self._before, self.evidence
        return Left(
            asked=digest(request),
            tier=self.tier or before.tier,
            steps=before.steps if evidence is None else self.steps,
            created=request.created,
            text="".join(self.texts),
            marks=self.marks.tolist(),
            usage=_sum(before.usage, used),
            passages=before.passages if evidence is None else evidence.passages,
            parts=before.parts if evidence is None else evidence.parts,
            ids=bytes(self._ids) or before.ids,
            said="".join(self._said) or before.said,
            ticket=self.ticket(),
        )


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of it. asked: tells the request from any other. passages: None = it had none of its own yet. usage:
    billed already. ids, said: the engine's own, where it has tokens to go on from. ticket: of a place in line."""

    asked: bytes
    tier: str = ""
    steps: list[str] = []
    created: int = 0
    text: str = ""
    marks: list[int] = []
    usage: Usage = Usage()
    passages: list[Passage] | None = None
    parts: list[str] = []
    ids: bytes = b""
    said: str = ""
    ticket: str = ""

    def encoded(self) -> bytes:
        return _encode(self)

    def after(self, stream_id: str, event: int) -> Earlier:
        """The answer as a client knows it that got everything up to this event."""
        chars = num_citations = 0
        for at in range(0, len(self.marks), _KINDS):
            if self.marks[at] > event:
                break
            chars, num_citations = self.marks[at + 1 : at + _KINDS]
        return Earlier(stream_id, self, self.text[:chars], num_citations)


NOTHING_LEFT = Left(asked=b"")


decode: Any = msgspec.msgpack.Decoder(Left).decode


class Earlier(msgspec.Struct, frozen=True):
    """The part of an answer that its client has. num_citations: that came with it."""

    stream_id: str
    left: Left
    text: str
    num_citations: int


class AfterEarlier:
    """A sink that passes on what its client does not have."""

    def __init__(self, sink: Sink, earlier: Earlier) -> None:
        self._sink = sink
        self._known, self._at = earlier.text, 0
        self._num_citations = earlier.num_citations

    def chosen(self, tier: str) -> None:
        self._sink.chosen(tier)

    async def stage(self, name: str) -> None:
        await self._sink.stage(name)

    def waiting(self, position: int, eta_s: float) -> None:
        self._sink.waiting(position, eta_s)

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        """Raises: UpstreamError where the answer is not the one that the client has the beginning of."""
        known = self._known[self._at : self._at + len(text)]
        if text[: len(known)] != known:
            raise diverged()
        self._at += len(known)
        fresh, num_known = text[len(known) :], min(self._num_citations, len(citations))
        self._num_citations -= num_known
        if fresh or citations[num_known:]:
            await self._sink.delta(fresh, citations[num_known:], passages)

    def check_whole(self) -> None:
        """At the end of the answer. Raises: UpstreamError when the client has more than all of it."""
        if self._at < len(self._known):
            raise diverged()


def diverged() -> UpstreamError:
    return UpstreamError(
        "This answer cannot be gone on with: its tier would now write another one. Ask again without Last-Event-ID.",
        code="stream_diverged",
    )


def digest(request: ChatRequest) -> bytes:
    """What must be the same for an answer to be gone on with; the conversation before it may have grown."""
    sampling: Sampling = request.sampling
    asked = (
        request.question,
        sampling,
        request.collections,
        request.without_documents,
        request.top_k,
        request.filters,
        request.conversation,
    )
    return hashlib.blake2b(_encode(asked), digest_size=16).digest()


def rest_of(usage: Usage, earlier: Earlier | None) -> Usage:
    """What is still to be billed of an answer whose beginning was."""
    if earlier is None:
        return usage
    billed = earlier.left.usage
    return Usage(
        max(0, usage.prompt_tokens - billed.prompt_tokens),
        max(0, usage.completion_tokens - billed.completion_tokens),
    )


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens)
