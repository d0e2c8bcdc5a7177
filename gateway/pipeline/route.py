"""Which tier answers a request, and what it gives up under load: the pure policies, fed with what is so right now."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from gateway.admission.waiting import Queue
from gateway.errors import Rejected
from gateway.metrics import Metrics
from gateway.pipeline.handover import Earlier
from gateway.pipeline.pressure import newcomer_eta_s
from gateway.pipeline.request import ChatRequest
from gateway.tiering import policy
from gateway.tiering.complexity import complexity_of, is_thin
from gateway.tiering.ladder import SHORT_TOKENS, STEPS, Step
from gateway.tiering.ladders import Ladders
from gateway.tiering.pace import Pace
from gateway.tiering.policy import Choice, Offer, Situation
from gateway.tiering.tiers import AUTO, Tier, TierBook
from gateway.types import Passage, Receipt, Sampling, Scope, Tenant

MIN_PASSAGES = 2  # that `fewer_passages` leaves
SHORT_WAIT_S = 1.0  # in whose line so much is waited, nobody minds


@dataclass
class Route:
    """The tier of a request and the steps that are in force for it. A step is told only where it changed something."""

    tier: Tier
    is_auto: bool = False
    steps: list[Step] = field(default_factory=list)

    def num_passages(self, top_k: int | None) -> int:
        wanted = top_k or self.tier.num_passages
        if Step.FEWER_PASSAGES not in self.steps:
            return wanted
        return min(wanted, max(MIN_PASSAGES, math.ceil(self.tier.num_passages / 2)))

    @property
    def max_hops(self) -> int:
        return 0 if Step.FEWER_PASSAGES in self.steps else self.tier.max_hops

    def narrowed(self, scope: Scope, receipt: Receipt) -> Scope:
        """The scope of a search as the steps leave it."""
        if Step.FEWER_PASSAGES in self.steps and (self.tier.max_hops or self.num_passages(scope.k) < scope.k):
            disclose(receipt, Step.FEWER_PASSAGES)
            scope = msgspec.structs.replace(scope, k=self.num_passages(scope.k))
        if Step.NO_RERANK in self.steps and scope.ranking == "hybrid":
            disclose(receipt, Step.NO_RERANK)
            scope = msgspec.structs.replace(scope, rerank=False)
        return scope

    def sampling(self, asked: Sampling, receipt: Receipt) -> Sampling:
        """A tier that writes gets fewer tokens; one that quotes is told to be short (`is_short`)."""
        if Step.SHORTER_ANSWERS not in self.steps or asked.json_schema:
            return asked  # JSON that is cut short is none
        if not self.tier.is_generative:
            disclose(receipt, Step.SHORTER_ANSWERS)
            return asked
        if asked.max_tokens is not None and asked.max_tokens <= SHORT_TOKENS:
            return asked
        disclose(receipt, Step.SHORTER_ANSWERS)
        return msgspec.structs.replace(asked, max_tokens=SHORT_TOKENS)

    @property
    def takes_neighbours(self) -> bool:
        """Whether a similar question's remembered answer will do. What quotes is as quick as looking for one."""
        return Step.CACHED_NEIGHBOUR in self.steps and self.tier.is_generative

    def in_calm(self) -> Route:
        """The same without what pressure takes away."""
        return Route(self.tier, self.is_auto)

    @property
    def is_short(self) -> bool:
        return Step.SHORTER_ANSWERS in self.steps and not self.tier.is_generative


def disclose(receipt: Receipt, step: Step) -> None:
    told = {*receipt.degraded, step.value}
    receipt.degraded = [each.value for each in STEPS if each in told]


def _can_answer(tier: Tier, request: ChatRequest) -> bool:
    """Whether the tier can do what the request asks for beyond a text from documents."""
    return (tier.keeps_schemas or not request.sampling.json_schema) and (
        tier.is_generative or not request.without_documents
    )


class Router:
    """budget_left: share of the tenant's monthly tokens that is left, 0..1; 1 where it has no budget."""

    def __init__(
        self,
        *,
        tiers: TierBook,
        queues: Mapping[str, Queue],
        ladders: Ladders,
        metrics: Metrics,
        clock: Callable[[], float],
        budget_left: Callable[[Tenant], float] = lambda _: 1.0,
    ) -> None:
        self._tiers, self._queues, self._ladders = tiers, queues, ladders
        self._metrics, self._clock, self._budget_left = metrics, clock, budget_left
        self._pace = Pace()

    def choose(self, request: ChatRequest, receipt: Receipt) -> Route:
        """The tier by name or by `auto`, then what the ladder takes away.

        Raises: NotFound (no such tier, or not for this tenant), InvalidRequest (a tier that cannot do what is asked).
        """
        self._tiers.check(request.model, request.tenant)
        if request.sampling.json_schema:
            self._tiers.check_schemas(request.model, request.tenant)
        if request.without_documents:
            self._tiers.check_writes(request.model, request.tenant)
        if request.earlier is not None and request.earlier.left.passages is not None:
            return self._as_before(request.earlier, receipt)
        if request.model == AUTO:
            offers = self._offers(request)
            choice = policy.choose(offers, self._situation(request))
            route = Route(self._tiers.tiers[choice.name], is_auto=True)
            receipt.tier_reason = choice.in_words()
        else:
            choice = Choice(request.model, "by_name", [])
            route = Route(self._tiers.tiers[request.model])
            receipt.tier_reason = "asked for by name"
        code = self._step_down(request, route, receipt) or choice.code
        receipt.tier = route.tier.name
        self._metrics.series.of(self._metrics.tier_choices, route.tier.name, code).inc()
        return route

    def _as_before(self, earlier: Earlier, receipt: Receipt) -> Route:
        """The tier and the steps by which the answer was begun. Raises: NotFound, when the tier is there no more."""
        receipt.tier = earlier.left.tier
        receipt.tier_reason = f"goes on with {earlier.stream_id}"
        steps = [Step(name) for name in earlier.left.steps if name != Step.REFUSE]  # it was let in
        self._metrics.tier_choices.labels(receipt.tier, "handed_over").inc()
        return Route(self._tiers.tiers[receipt.tier], steps=steps)

    def better(self, request: ChatRequest, route: Route, passages: list[Passage]) -> Route | None:
        """Where to go on when a tier that `auto` took found too little; None = stay. Nothing has been sent yet.

        Not under load: whoever gives up steps does not get a better tier.
        """
        if not route.is_auto or route.steps or request.sampling.json_schema:
            return None
        name = policy.better(self._offers(request), route.tier.name, self._situation(request))
        if name is None or not is_thin(request.question, passages):
            return None
        if self._ladders.steps(name, request.priority, request.tenant.floor):
            return None
        return Route(self._tiers.tiers[name], is_auto=True)

    def escalate(self, route: Route, better: Route, receipt: Receipt) -> None:
        """Write down that the better tier has looked, and answers."""
        name = better.tier.name
        receipt.tier_reason += f"; {route.tier.name} found too little, so {name} looks again"
        receipt.tier = name
        self._metrics.tier_choices.labels(name, "thin_evidence").inc()

    def instead(self, request: ChatRequest, name: str) -> Route | None:
        """That tier in the place of one that failed; None where the tenant has no right to it, or it takes nobody."""
        tier = self._tiers.tiers.get(name)
        if tier is None or tier not in self._tiers.offered(request.tenant):
            return None
        if not _can_answer(tier, request):
            return None
        steps = self._ladders.steps(name, request.priority, request.tenant.floor)
        return None if Step.REFUSE in steps else Route(tier, steps=steps)

    def learn(self, receipt: Receipt) -> None:
        """Take the pace of an answer that was given."""
        self._pace.learn(receipt.tier, max(0.0, receipt.total_ms - max(receipt.queue_ms, 0.0)) / 1000)

    def check(self, request: ChatRequest, route: Route, receipt: Receipt) -> None:
        """Apart from `choose`: what is remembered is given in any case. Raises: Rejected (the ladder's last step)."""
        if Step.REFUSE not in route.steps:
            return
        name, band = route.tier.name, request.priority
        receipt.degraded = [Step.REFUSE.value]
        self._metrics.degraded.labels(Step.REFUSE.value, name).inc()
        raise Rejected(
            f"The service takes no {band} requests right now; try again later.",
            code="overloaded",
            retry_after_s=max(1.0, self._eta_s(name, band)),
        )

    def _step_down(self, request: ChatRequest, route: Route, receipt: Receipt) -> str | None:
        """Put the steps in force onto the route. The reason where they moved it to another tier, by whose line it goes
        from there on."""
        tenant, band = request.tenant, request.priority
        route.steps = self._ladders.steps(route.tier.name, band, tenant.floor)
        is_written = request.sampling.json_schema or request.without_documents  # what quotes does neither
        step = None if is_written else self._moves(route)
        smaller = self._tiers.cheapest_quoting(tenant) if step else None
        if step is None or smaller is None or smaller == route.tier:
            return None
        steps = self._ladders.steps(smaller.name, band, tenant.floor)
        if Step.REFUSE in steps or self._is_longer(smaller.name, route.tier.name, band):
            return None  # nobody is sent to a longer line, or to one that takes nobody
        receipt.tier_reason += f"; {route.tier.name} is under load ({step.value})"
        disclose(receipt, step)
        route.tier, route.steps = smaller, steps
        return "ladder"

    def _is_longer(self, other: str, tier: str, band: str) -> bool:
        return self._eta_s(other, band) > max(SHORT_WAIT_S, self._eta_s(tier, band))

    @staticmethod
    def _moves(route: Route) -> Step | None:
        """The step that takes a request to a smaller tier: a tier asked for by name is kept as long as it can be."""
        if route.tier.is_generative and Step.EXTRACTIVE_ONLY in route.steps:
            return Step.EXTRACTIVE_ONLY
        return Step.SMALLER_TIER if route.is_auto and Step.SMALLER_TIER in route.steps else None

    def _offers(self, request: ChatRequest) -> list[Offer]:
        tiers = self._tiers.choices(request.tenant)
        if request.sampling.json_schema or request.without_documents:
            tiers = [tier for tier in self._tiers.offered(request.tenant) if _can_answer(tier, request)]
        return [
            Offer(
                tier.name,
                tier.is_generative,
                self._eta_s(tier.name, request.priority),
                self._pace.work_s(tier.name),
            )
            for tier in tiers
        ]

    def _situation(self, request: ChatRequest) -> Situation:
        return Situation(
            complexity_of(request.question),
            request.priority,
            request.deadline - self._clock(),
            self._budget_left(request.tenant),
        )

    def _eta_s(self, tier: str, band: str) -> float:
        return newcomer_eta_s(self._queues[tier], band)
