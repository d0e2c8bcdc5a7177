"""What the chat pipeline is given and what it hands to: a checked request, its evidence, where the answer goes."""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.admission.asks import BANDS
from gateway.filters import Filter
from gateway.language.follow_up import resolve
from gateway.pipeline.handover import Earlier, Trail
from gateway.types import Citation, Inquiry, Passage, Receipt, Sampling, Tenant, Turn


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request. received and deadline: monotonic seconds. collections: ids, empty = all.

    without_documents: nothing is searched for; the tier writes what its model makes of the messages.
    """

    id: str
    tenant: Tenant
    model: str
    question: str
    history: list[Turn] = []  # what was said before the question, oldest first
    sampling: Sampling = Sampling()
    collections: list[str] = []
    without_documents: bool = False
    top_k: int | None = None
    filters: Filter | None = None
    priority: str = "interactive"
    received: float
    deadline: float
    has_own_deadline: bool = False  # the caller's, else ours (TIDEGATE_REQUEST_TIMEOUT_S)
    created: int
    conversation: str = ""  # the id of the stored one that this is a turn of
    cache: str | None = None  # use, refresh, off; None = use, where the answer would come out the same
    ticket: str = ""  # keeps the place in line of an earlier try that was refused
    written: str = ""  # a follow-up as its caller wrote it; `question` is then what it means
    trail: Trail | None = None  # written as the answer is made, for whoever must go on with it
    earlier: Earlier | None = None  # the beginning of the answer, that the caller has


def pin_of(request: ChatRequest) -> int:
    """A number that all of a conversation has in common: of the stored one's id, else of the words it began with."""
    first = request.written or request.question
    if request.history:
        first = next((turn.text for turn in request.history if turn.role == "user"), first)
    name = f"{request.tenant.tenant_id}\0{request.conversation or first}"
    return zlib.crc32(name.encode("utf-8", "replace"))


class Evidence(NamedTuple):
    """What was retrieved for a question. parts: the questions that it is made of, where it is not one."""

    passages: list[Passage]
    parts: list[str]
    embedding: npt.NDArray[np.float32] | None = None  # of the question
    epoch: int = -1  # everything committed up to here was searched; -1 = not known


class Sink(Protocol):
    """Where an answer goes while it is made. A sink that raises ClientGone ends the request."""

    def chosen(self, tier: str) -> None: ...

    async def stage(self, name: str) -> None: ...

    def waiting(self, position: int, eta_s: float) -> None: ...

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None: ...


class Record(Protocol):
    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        """Keep a finished request's receipt and usage. Never blocks, never raises."""
        ...


def inquiry_of(
    request: ChatRequest, evidence: Evidence, sampling: Sampling, *, is_short: bool, is_generative: bool
) -> Inquiry:
    """What the tier is asked. is_generative: who writes has the conversation, and the question as it was put."""
    is_rewritten = is_generative and bool(request.written)
    earlier = request.earlier
    return Inquiry(
        question=request.written if is_rewritten else request.question,
        meant=request.question if is_rewritten else "",
        parts=evidence.parts,
        history=request.history,
        sampling=sampling,
        is_short=is_short,
        pin=pin_of(request),
        priority=BANDS.index(request.priority),
        without_documents=request.without_documents,
        ids=earlier.left.ids if earlier else b"",
        said=earlier.left.said if earlier else "",
    )


def history_chars(request: ChatRequest) -> int:
    """Of what was said before the question."""
    return sum(len(turn.text) for turn in request.history)


def stand_alone(request: ChatRequest, receipt: Receipt) -> ChatRequest:
    """The request with a question that says all; tier, search and quotes go by that."""
    if not request.history:
        return request
    asked = resolve(request.question, request.history)
    if not asked.is_follow_up:
        return request
    receipt.question, receipt.question_reason = asked.question, asked.reason
    return msgspec.structs.replace(request, question=asked.question, written=request.question)
