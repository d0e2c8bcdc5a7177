"""What a request asks of the limits and of a tier's queue: its tokens as far as they can be guessed, and its rights."""

from __future__ import annotations

from collections.abc import Container

import msgspec

from gateway.admission.estimate import Estimate, estimated_tokens, weighed
from gateway.admission.experience import Experience
from gateway.admission.waiting import Claim, Slot
from gateway.pipeline.interrupted import MAX_TIMES
from gateway.pipeline.request import ChatRequest, history_chars
from gateway.pipeline.route import Route
from gateway.types import Receipt


class Asking:
    """One per process. chunk_chars: length of a passage. preemptible: tiers that can go on with an answer."""

    def __init__(self, chunk_chars: int, preemptible: Container[str] = ()) -> None:
        self._chunk_chars, self._preemptible = chunk_chars, preemptible
        self._experience = Experience()

    def estimate(self, request: ChatRequest, route: Route) -> Estimate:
        return estimated_tokens(
            question_chars=len(request.question),
            history_chars=history_chars(request),
            num_passages=0 if request.without_documents else route.num_passages(request.top_k),
            chunk_chars=self._chunk_chars,
            context_tokens=route.tier.context_tokens,
            max_tokens=request.sampling.max_tokens,
            tier_max_tokens=route.tier.max_tokens,
        )

    def _guess(self, request: ChatRequest, route: Route) -> int:
        """What it is charged by until more is known. As in calm: a step of the ladder would make all who come from then
        on lighter at once, beside those in line, and experience learns what it really saves."""
        return self.estimate(request, route.in_calm()).weighed

    def claim(self, request: ChatRequest, route: Route) -> Claim:
        """What the request asks of the tier's queue."""
        return Claim(
            tenant=request.tenant.tenant_id,
            cost=self._experience.expected(
                route.tier.name, request.tenant.tenant_id, self._guess(request, route)
            ),
            size=kept_bytes(request),
            has_own_deadline=request.has_own_deadline,
            ticket=request.ticket,
            on_place=None if request.trail is None else request.trail.placed,
        )

    def claim_of(self, request: ChatRequest, route: Route, slot: Slot, receipt: Receipt) -> Claim:
        """The same for a slot; where it has one, that was asked back, it has been charged for."""
        claim = self.claim(request, route)
        if slot.permit is not None:
            claim = claim._replace(cost=slot.cost, ticket="", back=slot.permit)
        return claim._replace(gives=self.gives_way(request, route) and receipt.preempted < MAX_TIMES)

    def gives_way(self, request: ChatRequest, route: Route) -> bool:
        """Whether the answer can be broken off, and goes on later. No engine takes up a schema in the middle, nor the
        dice of a seed where they lay."""
        asked = request.sampling
        return route.tier.name in self._preemptible and not asked.json_schema and asked.seed is None

    def settle(self, slot: Slot, request: ChatRequest, route: Route, receipt: Receipt) -> None:
        """What the answer cost in the end."""
        usage = receipt.usage
        if not usage.completion_tokens:
            return
        real = weighed(usage.prompt_tokens, usage.completion_tokens)
        slot.settle(real)
        self._experience.note(route.tier.name, request.tenant.tenant_id, self._guess(request, route), real)


def kept_bytes(request: ChatRequest) -> int:
    """Of the text that a request holds while it waits, as UTF-8."""
    asked = request.sampling
    texts = [request.question, request.written, asked.json_schema, *asked.stop]
    texts += [turn.text for turn in request.history]
    filters = 0 if request.filters is None else len(msgspec.json.encode(request.filters))
    return filters + sum(map(_num_bytes, texts))


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
