"""What the chat pipeline is given and what it hands to: a checked request, its evidence, where the answer goes."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from gateway.filters import Filter
from gateway.types import Citation, Passage, Receipt, Sampling, Tenant, Turn


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request. received and deadline: monotonic seconds. collections: ids, empty = all."""

    id: str
    tenant: Tenant
    model: str
    question: str
    history: list[Turn] = []  # what was said before the question, oldest first
    sampling: Sampling = Sampling()
    collections: list[str] = []
    top_k: int | None = None
    filters: Filter | None = None
    priority: str = "interactive"
    received: float
    deadline: float
    has_own_deadline: bool = False  # the caller's, else ours (TIDEGATE_REQUEST_TIMEOUT_S)
    created: int
    conversation: str = ""  # the id of the stored one that this is a turn of
    written: str = ""  # a follow-up as its caller wrote it; `question` is then what it means


class Evidence(NamedTuple):
    """What was retrieved for a question. parts: the questions that it is made of, where it is not one."""

    passages: list[Passage]
    parts: list[str]


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
