"""The life of one chat request, in order: tier, retrieve, admission, generate, record.

Knows ports only; HTTP and gRPC are thin adapters over `ChatPipeline.run`. Whatever happens, a request ends with
exactly one `Outcome` and one receipt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import msgspec

from gateway.admission.slots import SlotQueue
from gateway.errors import (
    AdmissionError,
    ClientGone,
    DeadlineExceeded,
    Evicted,
    InternalError,
    InvalidRequest,
    TidegateError,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.filters import Filter
from gateway.language.follow_up import resolve
from gateway.metrics import Metrics
from gateway.ports import Answerer, Retrieved, Retriever
from gateway.retrieval.second_hop import Plan, planned, with_found
from gateway.tiering.tiers import Tier, TierBook
from gateway.types import (
    Citation,
    Delta,
    Inquiry,
    Outcome,
    Passage,
    Receipt,
    Sampling,
    Scope,
    Tenant,
    Turn,
    Usage,
)

log = logging.getLogger("tidegate.chat")

BEFORE_QUEUE = ("received", "retrieving")


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


class ChatPipeline:
    """One per process, shared by all requests and both protocols."""

    def __init__(
        self,
        *,
        retriever: Retriever,
        answerers: Mapping[str, Answerer],
        tiers: TierBook,
        queues: Mapping[str, SlotQueue],
        record: Record,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        is_stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._retriever = retriever
        self._answerers = answerers
        self.tiers = tiers
        self.queues = queues
        self._record = record
        self._metrics = metrics
        self._clock = clock
        self._is_stopping = is_stopping

    async def run(self, request: ChatRequest, sink: Sink) -> Receipt:
        """Answer into the sink and return the receipt.

        Raises: TidegateError for every failure (already recorded); CancelledError when the client left.
        """
        receipt = Receipt(
            id=request.id, created=request.created, outcome=Outcome.FAILED, conversation=request.conversation
        )
        try:
            await self._answer(_stand_alone(request, receipt), sink, receipt)
            receipt.outcome, receipt.stage = Outcome.COMPLETED, "done"
            return receipt
        except (asyncio.CancelledError, ClientGone):
            receipt.outcome, receipt.cause = self._cut_off()
            raise
        except TidegateError as error:
            receipt.outcome, receipt.cause = _outcome(error, receipt.stage), error.code
            raise
        except Exception as error:
            log.exception("request %s failed unexpectedly", request.id)
            receipt.cause = InternalError.code
            raise InternalError(
                "Something went wrong on our side; the request id helps us find it."
            ) from error
        finally:
            receipt.total_ms = self._since(request.received)
            self._finish(request, receipt)

    def refuse(self, request_id: str, received: float, error: BaseException) -> None:
        """Count a request that ended before it became one: bad input, no key, draining, or its client left."""
        receipt = Receipt(id=request_id, created=0, outcome=Outcome.REJECTED)
        if isinstance(error, TidegateError):
            receipt.outcome, receipt.cause = _outcome(error, receipt.stage), error.code
        elif isinstance(error, asyncio.CancelledError):
            receipt.outcome, receipt.cause = self._cut_off()
        else:
            receipt.outcome, receipt.cause = Outcome.FAILED, InternalError.code
        receipt.total_ms = self._since(received)
        self._count(receipt)

    def _cut_off(self) -> tuple[Outcome, str]:
        """Why a request was cancelled: its client left, or we could not wait for it any longer."""
        if self._is_stopping():
            return Outcome.FAILED, "draining"
        return Outcome.EVICTED, ClientGone.code

    async def _answer(self, request: ChatRequest, sink: Sink, receipt: Receipt) -> None:
        tier, receipt.tier_reason = self.tiers.choose(request.model, request.question)
        receipt.tier = tier.name
        sink.chosen(tier.name)
        queue = self.queues[tier.name]
        queue.check()
        receipt.stage = "retrieving"
        await sink.stage(receipt.stage)
        evidence = await self._retrieve(request, tier, receipt)
        receipt.stage = "queued"
        entered = self._clock()
        gauge = self._metrics.waiting.labels(tier.name)
        with gauge.track_inprogress():
            permit = await queue.acquire(
                band=request.priority, deadline=request.deadline, on_wait=sink.waiting
            )
        with permit, self._metrics.inflight.labels(tier.name).track_inprogress():
            receipt.queue_ms = self._since(entered)
            receipt.stage = "generating"
            await sink.stage(receipt.stage)
            await self._generate(request, tier, evidence, sink, receipt)

    async def _retrieve(self, request: ChatRequest, tier: Tier, receipt: Receipt) -> Evidence:
        """The passages, after a second hop where the tier makes one and the question needs it."""
        first = await self._search(request, tier, request.question)
        receipt.embed_ms, receipt.search_ms = round(first.embed_ms, 2), round(first.search_ms, 2)
        receipt.hops = 1
        passages, plan = first.passages, Plan()
        if tier.max_hops:
            plan = planned(request.question, passages)
            found = await self._hop(request, tier, plan.searches[: tier.max_hops])
            passages = with_found(passages, [each.passages for each in found])
            receipt.hops += len(found)
        receipt.passages = [_shown(number, passage) for number, passage in enumerate(passages, 1)]
        return Evidence(passages, plan.parts)

    async def _hop(self, request: ChatRequest, tier: Tier, searches: list[str]) -> list[Retrieved]:
        """Further searches, all at once. Without them there is still an answer, so a failure costs only them."""
        try:
            return await asyncio.gather(*(self._search(request, tier, text) for text in searches))
        except UpstreamError as error:
            log.warning("request %s goes on without its second hop: %s", request.id, error)
            return []

    async def _search(self, request: ChatRequest, tier: Tier, question: str) -> Retrieved:
        scope = Scope(
            tenant_id=request.tenant.tenant_id,
            collections=request.collections,
            k=request.top_k or tier.num_passages,
            filters=request.filters,
        )
        started = self._clock()
        try:
            found = await self._retriever.retrieve(question, scope, timeout_s=self._left(request))
        except UpstreamTimeout as error:
            raise self._late(request, error) from error
        self._metrics.retrieve_s.observe(self._clock() - started)
        return found

    async def _generate(
        self, request: ChatRequest, tier: Tier, evidence: Evidence, sink: Sink, receipt: Receipt
    ) -> None:
        passages = evidence.passages
        inquiry = Inquiry(
            question=request.question,
            parts=evidence.parts,
            history=request.history,
            sampling=request.sampling,
        )
        if tier.is_generative and request.written:  # who writes has the conversation before it
            inquiry = msgspec.structs.replace(inquiry, question=request.written, meant=request.question)
        answer = self._answerers[tier.name].answer(inquiry, passages, timeout_s=self._left(request))
        try:
            async for delta in answer:
                if delta.text and receipt.ttft_ms < 0:
                    receipt.ttft_ms = self._since(request.received)
                _account(receipt, delta)
                if delta.text:
                    await sink.delta(delta.text, delta.citations, passages)
        except UpstreamTimeout as error:
            raise self._late(request, error) from error
        finally:
            aclose = getattr(answer, "aclose", None)
            if aclose is not None:  # stop the work on Triton now, not when the iterator is collected
                await aclose()

    def _finish(self, request: ChatRequest, receipt: Receipt) -> None:
        self._count(receipt)
        self._record.record(request.tenant, receipt)

    def _count(self, receipt: Receipt) -> None:
        metrics, tier = self._metrics, receipt.tier or "none"
        metrics.requests.labels(receipt.outcome.value, receipt.cause, tier).inc()
        metrics.total_s.labels(tier).observe(receipt.total_ms / 1000)
        if receipt.ttft_ms >= 0:
            metrics.ttft_s.labels(tier).observe(receipt.ttft_ms / 1000)
        if receipt.queue_ms >= 0:
            metrics.queue_s.labels(tier).observe(receipt.queue_ms / 1000)
        metrics.tokens.labels(tier, "input").inc(receipt.usage.prompt_tokens)
        metrics.tokens.labels(tier, "output").inc(receipt.usage.completion_tokens)
        if receipt.unsupported_citations:
            metrics.unsupported_citations.labels(tier).inc(receipt.unsupported_citations)
        log.info(
            "outcome=%s cause=%s stage=%s tier=%s total_ms=%s id=%s",
            receipt.outcome, receipt.cause or "-", receipt.stage, tier, receipt.total_ms, receipt.id,
        )  # fmt: skip

    def _since(self, start: float) -> float:
        return round((self._clock() - start) * 1000, 2)

    def _left(self, request: ChatRequest) -> float:
        """Seconds until the deadline. Raises: DeadlineExceeded when none are left."""
        left = request.deadline - self._clock()
        if left <= 0:
            raise self._over(request)
        return left

    def _late(self, request: ChatRequest, error: TidegateError) -> TidegateError:
        return error if self._clock() < request.deadline - 0.005 else self._over(request)

    def _over(self, request: ChatRequest) -> TidegateError:
        if request.has_own_deadline:
            return DeadlineExceeded("The request's deadline has passed.", param="tidegate.deadline_ms")
        return UpstreamTimeout(
            "The answer was not ready within TIDEGATE_REQUEST_TIMEOUT_S.", code="request_timeout"
        )


def _stand_alone(request: ChatRequest, receipt: Receipt) -> ChatRequest:
    """The request with a question that says all; tier, search and quotes go by that."""
    asked = resolve(request.question, request.history)
    if not asked.is_follow_up:
        return request
    receipt.question, receipt.question_reason = asked.question, asked.reason
    return msgspec.structs.replace(request, question=asked.question, written=request.question)


def _outcome(error: TidegateError, stage: str) -> Outcome:
    if isinstance(error, Evicted | DeadlineExceeded):
        return Outcome.REJECTED if stage in BEFORE_QUEUE else Outcome.EVICTED
    if isinstance(error, AdmissionError | InvalidRequest):
        return Outcome.REJECTED
    return Outcome.FAILED


def _shown(number: int, passage: Passage) -> dict[str, object]:
    """A passage as the receipt tells it. `n` is the number in the answer's [n] marks."""
    return {
        "n": number,
        "collection_id": passage.collection_id,
        "file_id": passage.file_id,
        "filename": passage.filename,
        "heading": passage.heading,
        "score": round(passage.score, 4),
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "text": passage.text,
        "in_prompt": True,
        "cited": False,
    }


def _account(receipt: Receipt, delta: Delta) -> None:
    if delta.num_passages >= 0:
        for passage in receipt.passages[delta.num_passages :]:
            passage["in_prompt"] = False
    receipt.unsupported_citations += delta.num_unsupported
    for citation in delta.citations:
        receipt.passages[citation.passage - 1]["cited"] = True
    if delta.finish_reason:
        receipt.finish_reason = delta.finish_reason
    if delta.num_input_tokens or delta.num_output_tokens:
        receipt.usage = Usage(
            max(receipt.usage.prompt_tokens, delta.num_input_tokens),
            max(receipt.usage.completion_tokens, delta.num_output_tokens),
        )
