"""The retrieval part of a chat request: the first search, and the second hop where the tier makes one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from gateway.caching.retrievals import Retrievals
from gateway.caching.vectors import Vector
from gateway.errors import AdmissionError, UpstreamError, UpstreamTimeout
from gateway.metrics import Metrics
from gateway.pipeline import traced
from gateway.pipeline.deadline import late, left_s
from gateway.pipeline.request import ChatRequest, Evidence
from gateway.pipeline.route import Route
from gateway.ports import QueuedRetriever, Retrieved
from gateway.retrieval.second_hop import Plan, planned, with_found
from gateway.shown import shown
from gateway.tiering.tiers import Tier
from gateway.types import Receipt, Scope

log = logging.getLogger("tidegate.chat")


class Gatherer:
    """Finds the passages for a question."""

    def __init__(
        self,
        retriever: QueuedRetriever,
        metrics: Metrics,
        clock: Callable[[], float],
        retrievals: Retrievals | None = None,
    ) -> None:
        self._retriever, self._metrics, self._clock = retriever, metrics, clock
        self._retrievals = retrievals

    async def gather(self, request: ChatRequest, route: Route, receipt: Receipt) -> Evidence:
        """The passages, after a second hop where the tier makes one and the question needs it."""
        scope = route.narrowed(_scope(request, route.tier), receipt)
        first = await self._search(request, scope, request.question)
        receipt.embed_ms = round(max(receipt.embed_ms, 0.0) + first.embed_ms, 2)
        receipt.search_ms = round(max(receipt.search_ms, 0.0) + first.search_ms, 2)
        receipt.hops += 1
        passages, plan, epoch = first.passages, Plan(), first.epoch
        if route.max_hops:
            plan = planned(request.question, passages)
            searches = plan.searches[: route.max_hops]
            found = await self._hop(request, scope, searches)
            is_whole = len(found) == len(searches)
            epoch = min([epoch, *(each.epoch for each in found)]) if is_whole else -1
            passages = with_found(passages, [each.passages for each in found])
            receipt.hops += len(found)
        receipt.passages = [shown(number, passage) for number, passage in enumerate(passages, 1)]
        return Evidence(passages, plan.parts, first.embedding, epoch)

    async def _hop(self, request: ChatRequest, scope: Scope, searches: list[str]) -> list[Retrieved]:
        """Further searches, all at once. Without them there is still an answer, so a failure costs only them."""
        made = await asyncio.gather(
            *(self._search(request, scope, text) for text in searches), return_exceptions=True
        )  # all have ended: none goes on behind the answer, with a place in the line of searches
        found = [each for each in made if isinstance(each, Retrieved)]
        for error in made:
            if isinstance(error, AdmissionError | UpstreamError):
                log.warning("request %s goes on without its second hop: %s", request.id, error)
                found = []
            elif isinstance(error, BaseException):
                raise error
        return found

    async def _search(self, request: ChatRequest, scope: Scope, question: str) -> Retrieved:
        """What a search finds; not made again where it is known to find the same."""
        known, vector = (self._retrievals if request.cache != "off" else None), None
        if known is not None and request.cache != "refresh":
            if (kept := known.get(question, scope)) is not None:
                return kept
            vector = known.vector(question, scope)
        found = await self._find(request, scope, question, vector)
        if known is not None:
            known.keep(question, scope, found)
        return found

    async def _find(
        self, request: ChatRequest, scope: Scope, question: str, vector: Vector | None
    ) -> Retrieved:
        """vector: of the question, where it is known."""
        started = self._clock()
        try:
            with traced.retrieval(scope) as span:
                found = await self._retriever.retrieve(
                    question,
                    scope,
                    timeout_s=left_s(request, self._clock),
                    embedding=vector,
                    band=request.priority,
                )
                traced.found(span, found)
        except UpstreamTimeout as error:
            raise late(request, error, self._clock) from error
        self._metrics.retrieve_s.observe(self._clock() - started)
        return found


def _scope(request: ChatRequest, tier: Tier) -> Scope:
    return Scope(
        tenant_id=request.tenant.tenant_id,
        collections=request.collections,
        k=request.top_k or tier.num_passages,
        filters=request.filters,
    )
