"""The life of one chat request, in order: tier, retrieve, admission, generate, record.

Knows ports only; HTTP and gRPC are thin adapters over `ChatPipeline.run`. Whatever happens, a request ends with
exactly one `Outcome` and one receipt. The longer parts of the story stand in gateway/pipeline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from gateway.admission.adaptive import AdaptiveSlots
from gateway.admission.quota import Limiter, Reservation
from gateway.admission.waiting import Queue, Slot
from gateway.errors import (
    AdmissionError,
    ClientGone,
    InternalError,
    TidegateError,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.metrics import Metrics
from gateway.pipeline import traced
from gateway.pipeline.account import BEFORE_QUEUE, account, billed_tokens, count, outcome_of
from gateway.pipeline.asking import Asking
from gateway.pipeline.deadline import late, left_s
from gateway.pipeline.detour import Detour
from gateway.pipeline.gather import Gatherer
from gateway.pipeline.handover import rest_of
from gateway.pipeline.interrupted import unbroken
from gateway.pipeline.remember import HITS, AnswerMemory, Recall
from gateway.pipeline.request import ChatRequest, Evidence, Record, Sink, inquiry_of, pin_of, stand_alone
from gateway.pipeline.route import Route, Router
from gateway.pipeline.trial import Trial, on_trial
from gateway.ports import Answerer, Gate, QueuedRetriever
from gateway.request_id import working_for
from gateway.shown import shown
from gateway.tiering.ladders import Ladders
from gateway.tiering.tiers import TierBook
from gateway.tiering.versions import Met, one_version
from gateway.tracing import spans
from gateway.types import Delta, Inquiry, Outcome, Receipt, Tenant

__all__ = ["BEFORE_QUEUE", "ChatPipeline", "ChatRequest", "Sink"]

log = logging.getLogger("tidegate.chat")


class _Try(NamedTuple):
    """A request at a tier, with what it has of it. receipt: of the work, which may be several readers'."""

    request: ChatRequest
    route: Route
    slot: Slot
    sink: Sink
    receipt: Receipt


class ChatPipeline:
    """One per process, shared by all requests and both protocols."""

    def __init__(
        self,
        *,
        retriever: QueuedRetriever,
        answerers: Mapping[str, Answerer],
        tiers: TierBook,
        queues: Mapping[str, Queue],
        record: Record,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        is_stopping: Callable[[], bool] = lambda: False,
        ladders: Ladders | None = None,
        budget_left: Callable[[Tenant], float] = lambda _: 1.0,
        limits: Limiter | None = None,
        chunk_chars: int = 900,
        gates: Mapping[str, Gate] | None = None,
        memory: AnswerMemory | None = None,
        adaptive: Mapping[str, AdaptiveSlots] | None = None,
        version_met: Callable[[str, int], Met] = one_version,
        preemptible: Container[str] = (),
    ) -> None:
        self._asking = Asking(chunk_chars, preemptible)
        self.adaptive = adaptive or {}
        self.memory, self._version_met = memory, version_met
        if memory is not None:
            memory.is_idle = lambda tier: not queues[tier].is_crowded
            memory.version_met = version_met
        self._gates = gates or {}
        self._limits = limits
        self._num_searching: Counter[str] = Counter()  # by tier, those without a slot
        self.ladders = ladders or Ladders(tiers.tiers)
        self._router = Router(
            tiers=tiers,
            queues=queues,
            ladders=self.ladders,
            metrics=metrics,
            clock=clock,
            budget_left=budget_left if limits is None else limits.budget_left,
        )
        self._gatherer = Gatherer(retriever, metrics, clock, None if memory is None else memory.retrievals)
        self._answerers = answerers
        self.tiers = tiers
        self.queues = queues
        self._record = record
        self._metrics, self._series = metrics, metrics.series.of
        self._clock = clock
        self._is_stopping = is_stopping

    async def run(self, request: ChatRequest, sink: Sink) -> Receipt:
        """Answer into the sink and return the receipt.

        Raises: TidegateError for every failure (already recorded); CancelledError when the client left.
        """
        receipt = Receipt(
            id=request.id, created=request.created, outcome=Outcome.FAILED, conversation=request.conversation
        )
        receipt.trace_id = spans.trace_id()
        if request.trail is not None:
            request.trail.receipt = receipt
        with working_for(request.id):
            return await self._run(request, sink, receipt)

    async def _run(self, request: ChatRequest, sink: Sink, receipt: Receipt) -> Receipt:
        try:
            await self._answer(stand_alone(request, receipt), sink, receipt)
            is_hit = receipt.cache in HITS
            receipt.outcome, receipt.stage = (Outcome.CACHED if is_hit else Outcome.COMPLETED), "done"
            return receipt
        except (asyncio.CancelledError, ClientGone):
            receipt.outcome, receipt.cause = self._cut_off()
            raise
        except TidegateError as error:
            receipt.outcome, receipt.cause = outcome_of(error, receipt), error.code
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
            receipt.outcome, receipt.cause = outcome_of(error, receipt), error.code
        elif isinstance(error, asyncio.CancelledError):
            receipt.outcome, receipt.cause = self._cut_off()
        else:
            receipt.outcome, receipt.cause = Outcome.FAILED, InternalError.code
        receipt.total_ms = self._since(received)
        traced.told(receipt)
        count(self._metrics, receipt)

    def _cut_off(self) -> tuple[Outcome, str]:
        """Why a request was cancelled: its client left, or we could not wait for it any longer."""
        if self._is_stopping():
            return Outcome.FAILED, "draining"
        return Outcome.EVICTED, ClientGone.code

    async def _answer(self, request: ChatRequest, sink: Sink, receipt: Receipt) -> None:
        route = self._router.choose(request, receipt)
        sink.chosen(route.tier.name)
        recall = None if self.memory is None else await traced.lookup(self.memory.recall(request, route))
        detour = Detour(self._router, self._metrics, request, sink, receipt)
        if recall is None or not recall.needs_no_slot:
            self._router.check(request, route, receipt)
            chosen, route = route, self._taking(request, route, detour)
            recall = recall if route is chosen else None  # what another tier answers is another answer
        held = await self._reserve(request, route)

        async def work(sink: Sink, receipt: Receipt) -> None:
            asked = request if recall is None else recall.request  # a check's has no trail
            detour = Detour(self._router, self._metrics, asked, sink, receipt)
            await self._served(_Try(asked, route, Slot(), sink, receipt), detour, recall)

        try:
            if self.memory is None or recall is None:
                await self._served(_Try(request, route, Slot(), sink, receipt), detour)
            else:
                await self.memory.answer(recall, sink, receipt, work)
        finally:
            receipt.usage = rest_of(receipt.usage, request.earlier)
            if held is not None:  # what was sent counts, the answer that broke off too
                held.settle(billed_tokens(receipt))

    def _taking(self, request: ChatRequest, route: Route, detour: Detour) -> Route:
        """The tier, or the first one in its place that takes requests now: found out before anything is done."""
        while True:
            try:
                gate = self._gates.get(route.tier.name)
                if gate is not None:
                    gate.check()
                self.queues[route.tier.name].check(request.priority, self._asking.claim(request, route))
                return route
            except TidegateError as error:
                route = detour.after(route, error)

    async def _reserve(self, request: ChatRequest, route: Route) -> Reservation | None:
        """The request's part of its tenant's and its key's limits. Raises: RateLimited, QuotaExceeded."""
        if self._limits is None:
            return None
        return await self._limits.reserve(request.tenant, self._asking.estimate(request, route).total)

    async def _served(self, its: _Try, detour: Detour, recall: Recall | None = None) -> None:
        request, slot = its.request, its.slot
        with contextlib.closing(slot):
            may_need_none = recall is not None and its.route.takes_neighbours
            while not slot.is_held and not may_need_none and self._needs_slot_first(its.route):
                try:
                    await self._admit(its)
                except TidegateError as error:
                    its = its._replace(route=detour.after(its.route, error))
            if not request.without_documents:
                its.receipt.stage = "retrieving"
                await its.sink.stage(its.receipt.stage)
            with self._searching(its.route, slot):
                route, evidence = await self._gather(its)
            is_better = route is not its.route
            if is_better:
                detour.back_to(its.route.tier.name)
            its = its._replace(route=route)
            if (
                self.memory is not None
                and recall is not None
                and not detour.is_taken  # another tier's answer is none to this question
                and await self.memory.by_evidence(recall, route, evidence, its.sink, its.receipt)
            ):
                return
            if is_better:
                slot.close()
            while True:
                try:
                    if not slot.is_held:
                        await self._admit(its)
                    await self._write(its, evidence)
                    self._asking.settle(slot, request, its.route, its.receipt)
                    return
                except TidegateError as error:
                    slot.close()
                    its = its._replace(route=detour.after(its.route, error))

    def _needs_slot_first(self, route: Route) -> bool:
        """Finding is most of the work of a tier that quotes, and work in vain for whoever gets no slot.

        Those who are finding will ask for slots too: a burst must not find for a second to hear then that all is full.
        """
        queue, name = self.queues[route.tier.name], route.tier.name
        if not route.tier.is_generative or queue.is_crowded:
            return True
        return queue.inflight + self._num_searching[name] >= queue.limit

    @contextlib.contextmanager
    def _searching(self, route: Route, slot: Slot) -> Iterator[None]:
        name = route.tier.name
        count = 0 if slot.is_held else 1
        self._num_searching[name] += count
        try:
            yield
        finally:
            self._num_searching[name] -= count

    async def _gather(self, its: _Try) -> tuple[Route, Evidence]:
        """The evidence; that of a better tier where `auto` took one that found too little."""
        request, route, receipt = its.request, its.route, its.receipt
        if request.earlier is not None and (passages := request.earlier.left.passages) is not None:
            found = Evidence(passages, request.earlier.left.parts)
            receipt.passages = [shown(number, passage) for number, passage in enumerate(found.passages, 1)]
            return route, found
        if request.without_documents:
            return route, Evidence([], [])
        evidence = await self._gatherer.gather(request, route, receipt)
        better = self._router.better(request, route, evidence.passages)
        if better is None:
            return route, evidence
        try:
            found = await self._gatherer.gather(request, better, receipt)
        except (AdmissionError, UpstreamError) as error:  # there is an answer without it, be it a poor one
            log.warning("request %s stays with %s: %s", request.id, route.tier.name, error)
            return route, evidence._replace(epoch=-1)  # nothing that is remembered of it counts as current
        self._router.escalate(route, better, receipt)
        its.sink.chosen(better.tier.name)
        return better, found

    async def _admit(self, its: _Try) -> None:
        """A slot of the tier, after a wait in its line where there is one; for one that is asked back, another one."""
        request, route, receipt = its.request, its.route, its.receipt
        left_s(request, self._clock)
        tier = route.tier.name
        receipt.stage = "queued"
        entered, claim = self._clock(), self._asking.claim_of(request, route, its.slot, receipt)
        with (
            self._series(self._metrics.waiting, tier).track_inprogress(),
            traced.admission(route.tier, request),
        ):
            permit = await self.queues[tier].acquire(
                band=request.priority, deadline=request.deadline, on_wait=its.sink.waiting, claim=claim
            )
        its.slot.take(permit, claim.cost)
        receipt.queue_ms = round(max(receipt.queue_ms, 0.0) + self._since(entered), 2)  # of all tiers tried

    async def _admit_again(self, its: _Try) -> None:
        """Another slot for the one that is asked back."""
        receipt, tier = its.receipt, its.route.tier.name
        stage = receipt.stage
        receipt.preempted += 1
        self._metrics.preempted.labels(tier, its.request.priority).inc()
        inflight = self._metrics.inflight.labels(tier)
        inflight.dec()  # it waits, and holds none
        try:
            await self._admit(its)
        finally:
            inflight.inc()
        receipt.stage = stage

    async def _write(self, its: _Try, evidence: Evidence) -> None:
        tier, receipt = its.route.tier, its.receipt
        with self._series(self._metrics.inflight, tier.name).track_inprogress():
            receipt.stage = "generating"
            await its.sink.stage(receipt.stage)
            met = self._version_met(tier.name, pin_of(its.request))
            with (
                traced.generation(its.request, tier, receipt),
                on_trial(self._metrics.trials, tier.name, met, receipt) as trial,
            ):
                await self._generate(its, evidence, trial)

    async def _generate(self, its: _Try, evidence: Evidence, trial: Trial) -> None:
        request, receipt, passages = its.request, its.receipt, evidence.passages
        if request.trail is not None:
            request.trail.stands_on(its.route.tier.name, its.route.steps, evidence)
        began, answer = self._clock(), self._begun(its, evidence)
        try:
            async for delta in answer:
                if request.trail is not None:
                    request.trail.made(delta)
                if delta.text and receipt.ttft_ms < 0:
                    self._tell_first_text(its, trial, self._clock() - began)
                if delta.text:
                    await its.sink.delta(delta.text, delta.citations, passages)
                account(receipt, delta)  # after it: what was not sent is not billed
        except UpstreamTimeout as error:
            raise late(request, error, self._clock) from error
        finally:
            aclose = getattr(answer, "aclose", None)
            if aclose is not None:  # stop the work on Triton now, not when the iterator is collected
                await aclose()

    def _begun(self, its: _Try, evidence: Evidence) -> AsyncIterator[Delta]:
        """The answer as the tier makes it; where it can give way, through all its interruptions."""
        request, route, tier = its.request, its.route, its.route.tier
        inquiry = inquiry_of(
            request,
            evidence,
            route.sampling(request.sampling, its.receipt),
            is_short=route.is_short,
            is_generative=tier.is_generative,
        )

        def begin(inquiry: Inquiry) -> AsyncIterator[Delta]:
            left = left_s(request, self._clock)
            return self._answerers[tier.name].answer(inquiry, evidence.passages, timeout_s=left)

        answer = begin(inquiry)
        if self._asking.gives_way(request, route):
            answer = unbroken(inquiry, begin, its.slot, partial(self._admit_again, its))
        return answer

    def _tell_first_text(self, its: _Try, trial: Trial, took_s: float) -> None:
        tier = its.route.tier.name
        its.receipt.ttft_ms = self._since(its.request.received)
        traced.first_text(its.receipt, took_s)
        trial.first_text(took_s)
        if tier in self.adaptive:
            num_tokens = self._asking.estimate(its.request, its.route).prompt
            self.adaptive[tier].observe(took_s, num_tokens)

    def _finish(self, request: ChatRequest, receipt: Receipt) -> None:
        if receipt.outcome is Outcome.COMPLETED:
            self._router.learn(receipt)
        traced.told(receipt)
        count(self._metrics, receipt, request.tenant.tenant_id)
        self._record.record(request.tenant, receipt)

    def _since(self, start: float) -> float:
        return round((self._clock() - start) * 1000, 2)
