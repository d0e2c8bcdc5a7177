"""The answer memory in the life of a request: what may be remembered, when it may be given again, what is kept.

An answer is given again only with its evidence: unseen while nothing in its collections has changed since, else after
retrieval has found the same passages once more. A near question's answer needs that too, and every guard's consent.
Identical questions under way share one piece of work. Knows the pipeline's nouns; the stores know none of them.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.caching.answers import Answers
from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.entry import Entry, agreement, same_evidence
from gateway.caching.flight import Reader
from gateway.caching.kept_topics import KeptTopics
from gateway.caching.key import Key, key_of
from gateway.caching.retrievals import Retrievals
from gateway.caching.shared import READ_LIMIT_S
from gateway.caching.threshold import Thresholds
from gateway.errors import DeadlineExceeded, UpstreamTimeout
from gateway.metrics import Metrics
from gateway.pipeline import traced
from gateway.pipeline.deadline import over
from gateway.pipeline.edition import Edition, is_deterministic, may_be_remembered, of_version, setting_of
from gateway.pipeline.hit_check import HitChecks, KeptAnswer
from gateway.pipeline.joint_work import JointWork
from gateway.pipeline.keeping import entry_of, is_of_one_piece
from gateway.pipeline.near_answers import NearAnswers, stands_on
from gateway.pipeline.recall import Recall
from gateway.pipeline.request import ChatRequest, Evidence, Sink, pin_of
from gateway.pipeline.route import Route, disclose
from gateway.pipeline.shared_work import Chosen, Sent, SharedWork, Step, Told, Waiting, take_over
from gateway.tiering import ladder
from gateway.tiering.versions import Met, one_version
from gateway.types import Outcome, Receipt, Usage

__all__ = ["HITS", "AnswerMemory", "Edition", "Recall", "stands_on"]

log = logging.getLogger("tidegate.cache")

HITS = ("exact", "semantic", "joined", "neighbour")
LABEL = "The service is under load, so this is its earlier answer to a similar question:\n\n"
EARLY_SHARE = 0.1  # of its life, at whose end a hot answer is made anew by one request in EARLY_ODDS
EARLY_ODDS = 20
TTL_SPREAD = 0.1  # so that what was made at once does not run out at once

Work = Callable[[Sink, Receipt], Awaitable[None]]


class AnswerMemory:
    """editions: by tier; a tier without one is not remembered. ttl_s: life of an answer; ttl_s_of: of one from a
    collection, where that is shorter. weight: what a hit is billed, as a share of what the answer was. opted_out:
    tenants of whom nothing is kept. joint: None = other workers are not asked whether they are at it. retrievals: what
    searches found; None = each is made.

    clock: monotonic seconds, wall: unix seconds, chance: uniform in 0..1.
    """

    def __init__(
        self,
        answers: Answers,
        watch: CorpusWatch,
        thresholds: Thresholds,
        metrics: Metrics,
        *,
        editions: Mapping[str, Edition],
        ttl_s: float = 86_400.0,
        ttl_s_of: Mapping[str, float] | None = None,
        weight: float = 0.1,
        opted_out: frozenset[str] = frozenset(),
        joint: JointWork | None = None,
        retrievals: Retrievals | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.answers, self.watch, self.thresholds = answers, watch, thresholds
        self._metrics, self._editions, self._ttl_s, self._weight = metrics, editions, ttl_s, weight
        self._ttl_s_of = ttl_s_of or {}
        self._opted_out, self.joint, self.retrievals = opted_out, joint, retrievals
        self._clock, self._wall, self._chance = clock, wall, chance
        self._under_way: dict[tuple[Key, str], SharedWork] = {}
        self._checks = HitChecks(thresholds, metrics, chance)
        self._near_answers = NearAnswers(answers, thresholds, self._checks, metrics)
        self.is_idle: Callable[[str], bool] = lambda _tier: True  # whether nobody would wait for the tier
        self.version_met: Callable[[str, int], Met] = one_version
        self.kept_topics: KeptTopics | None = None  # what is learned is kept in SQL, too

    async def recall(self, request: ChatRequest, route: Route) -> Recall | None:
        """What is remembered; None where this request may neither take nor leave anything."""
        version = self.version_met(route.tier.name, pin_of(request)).version
        edition = of_version(self._editions.get(route.tier.name), version)
        is_out = request.cache == "off" or request.tenant.tenant_id in self._opted_out
        is_out = is_out or request.without_documents  # answers are remembered by what they stand on
        if edition is None or is_out or not may_be_remembered(request, route, edition):
            self._metrics.series.of(self._metrics.cache_verdicts, "off").inc()
            return None
        written = request.written if route.tier.is_generative else ""
        key = key_of(setting_of(request, route, edition), request.question, written)
        recall = Recall(key, request, edition.name, version or "", reads=request.cache != "refresh")
        recall.is_drawn = not is_deterministic(request, route, edition)
        if recall.reads:
            began = self._clock()
            entry = await self.answers.find(key) if self._work_of(recall) is None else None
            recall.waited_s = self._clock() - began
            recall.is_due = entry is not None and self._is_due(entry)
            if entry is not None and not recall.is_due:
                self._take(recall, entry)
            await self._recall_calm(recall, route, edition, written)
            recall.is_under_way = self._work_of(recall) is not None
        return recall

    async def _recall_calm(self, recall: Recall, route: Route, edition: Edition, written: str) -> None:
        """Under pressure an answer that nothing was taken from is as good as any, where it may be given unseen."""
        if not route.steps:
            return
        setting = setting_of(recall.request, route.in_calm(), edition)
        recall.calm_key = key_of(setting, recall.request.question, written)
        if recall.is_certain or recall.calm_key == recall.key:
            return
        entry = await self.answers.find(recall.calm_key)
        collections = recall.request.collections
        if entry is not None and self.watch.is_current(recall.key.tenant_id, collections, entry.epoch):
            recall.entry, recall.is_certain = entry, True

    async def answer(self, recall: Recall, sink: Sink, receipt: Receipt, work: Work) -> None:
        """Give the remembered answer, the one that is under way, or a new one, which is then remembered."""
        try:
            if recall.is_under_way and self._work_of(recall) is None:  # done meanwhile
                entry = self.answers.held(recall.key.tenant_id, recall.key.digest)
                self._take(recall, entry)
            if recall.entry is not None and recall.is_certain:
                receipt.cache, receipt.cache_similarity = "exact", 1.0
                await self._give(recall.entry, recall.request, sink, receipt)
                return
            shared = self._work_of(recall)
            if shared is None or not await self._join(shared, recall, sink, receipt):
                await self._lead(recall, sink, receipt, work)
        finally:
            self._metrics.series.of(self._metrics.cache_verdicts, receipt.cache).inc()

    async def by_evidence(
        self, recall: Recall, route: Route, evidence: Evidence, sink: Sink, receipt: Receipt
    ) -> bool:
        """After retrieval: whether a remembered answer stands on just this; then it has been given."""
        recall.evidence, recall.tier = evidence, route.tier.name
        if not recall.reads:
            return False
        entry = recall.entry
        if entry is None:
            return await self._near(recall, evidence, sink, receipt) or await self._similar(
                recall, route, evidence, sink, receipt
            )
        if not same_evidence(entry.passages, evidence.passages) or entry.tier != recall.tier:
            self._metrics.cache_stale.inc()
            self.answers.drop(recall.key)
            return False
        receipt.cache, receipt.cache_similarity, receipt.cache_agreement = "exact", 1.0, 1.0
        await self._give(entry, recall.request, sink, receipt)
        if evidence.epoch > entry.epoch:
            self.answers.keep(recall.key, msgspec.structs.replace(entry, epoch=evidence.epoch))
        return True

    def _take(self, recall: Recall, entry: Entry | None) -> None:
        recall.entry, collections = entry, recall.request.collections
        if entry is not None:
            recall.is_certain = self.watch.is_current(recall.key.tenant_id, collections, entry.epoch)

    def _is_due(self, entry: Entry) -> bool:
        """Whether a hot answer is made anew before it runs out, so that not everybody misses it at once."""
        left = (entry.expires - self._wall()) / max(entry.expires - entry.created, 1e-9)
        return left < EARLY_SHARE and self._chance() < 1 / EARLY_ODDS

    async def _near(self, recall: Recall, evidence: Evidence, sink: Sink, receipt: Receipt) -> bool:
        """The answer to the nearest question that asks the same and stands on the same evidence."""
        found = recall.near = self._near_answers.find(recall.key, recall.request, recall.tier, evidence)
        if found.entry is None:
            return False
        receipt.cache, receipt.cache_similarity = "semantic", round(found.similarity, 4)
        receipt.cache_agreement = round(agreement(found.entry.passages, evidence.passages), 4)
        await self._give(found.entry, recall.request, sink, receipt)
        return True

    async def _similar(
        self, recall: Recall, route: Route, evidence: Evidence, sink: Sink, receipt: Receipt
    ) -> bool:
        """The ladder's step `cached_neighbour`."""
        if not route.takes_neighbours or recall.calm_key is None or recall.request.sampling.json_schema:
            return False
        found = self._near_answers.similar(recall.calm_key, recall.request, recall.tier, evidence)
        if found.entry is None:
            return False
        receipt.cache, receipt.cache_similarity = "neighbour", round(found.similarity, 4)
        receipt.cache_agreement = round(agreement(found.entry.passages, evidence.passages), 4)
        await sink.delta(LABEL, [], found.entry.passages)
        await self._give(found.entry, recall.request, sink, receipt)
        disclose(receipt, ladder.Step.CACHED_NEIGHBOUR)
        return True

    def _check_later(self, recall: Recall, work: Work) -> None:
        """Now and then, while a slot is free: see whether the answer to another wording was right for this one."""
        near, request = recall.near, recall.request
        given = None if near is None else near.entry
        if near is None or given is None or recall.is_drawn or not self._checks.is_due(near.asked.topic):
            return
        recall.reads = False  # this time its own answer, which is no part of what its client was sent
        recall.request = msgspec.structs.replace(request, trail=None)
        receipt = Receipt(id=request.id, created=request.created, outcome=Outcome.FAILED, tier=given.tier)
        anew = KeptAnswer(request.question, receipt)
        self._checks.start(
            near.asked.topic,
            near.similarity,
            given,
            anew,
            lambda sink: work(sink, receipt),
            is_idle=lambda: self.is_idle(given.tier),
        )

    async def _give(self, entry: Entry, request: ChatRequest, sink: Sink, receipt: Receipt) -> None:
        """Send a remembered answer as it was sent, and write down what it is."""
        receipt.cache_age_s = round(max(0.0, self._wall() - entry.created), 3)
        if entry.tier != receipt.tier:
            receipt.tier = entry.tier
            receipt.tier_reason += f"; {entry.tier} had answered it"
            sink.chosen(entry.tier)
        receipt.passages = entry.shown
        receipt.hops, receipt.unsupported_citations = entry.hops, entry.unsupported_citations
        receipt.degraded = list(entry.degraded)
        for piece in entry.pieces:
            if receipt.ttft_ms < 0:
                receipt.ttft_ms = self._since(request.received)
            await sink.delta(piece.text, piece.citations, entry.passages)
        receipt.finish_reason = entry.finish_reason
        receipt.usage = self._weighed(Usage(entry.prompt_tokens, entry.completion_tokens))

    async def _lead(self, recall: Recall, sink: Sink, receipt: Receipt, work: Work) -> None:
        """Begin the work, and be its first reader."""
        made = Receipt(id=receipt.id, created=receipt.created, outcome=Outcome.FAILED, stage=receipt.stage)
        made.tier, made.tier_reason, made.degraded = receipt.tier, receipt.tier_reason, list(receipt.degraded)
        made.cache, made.trace_id = ("miss" if recall.reads else "refresh"), receipt.trace_id
        shared, place = SharedWork(made), (recall.key, recall.request.priority)
        async with shared.flight.reader() as reader:
            if recall.reads:
                self._under_way[place] = shared

            async def run() -> None:
                try:
                    await self._make(recall, shared, work)
                finally:
                    if self._under_way.get(place) is shared:
                        del self._under_way[place]

            shared.flight.start(run)
            try:
                await self._read(reader, recall.request, sink, receipt, lambda: shared.is_anothers)
            finally:
                self._conclude(receipt, shared, reader, is_joined=shared.is_anothers)

    async def _make(self, recall: Recall, shared: SharedWork, work: Work) -> None:
        """The answer into `shared`: made here, unless another worker is at it."""

        async def make(entry: Entry | None) -> asyncio.Task[None] | None:
            if entry is not None:  # it came while we asked who makes it
                self.answers.adopt(recall.key, entry)
                self._take(recall, entry)
            if recall.entry is not None and recall.is_certain:
                shared.made.cache, shared.made.cache_similarity = "exact", 1.0
                await self._give(recall.entry, recall.request, shared, shared.made)
                return None
            await work(shared, shared.made)
            written = self._keep(recall, shared)
            self._check_later(recall, work)
            return written

        if self.joint is None or not recall.reads:
            await make(None)
            return
        await self.joint.done(
            recall.key,
            recall.request,
            shared,
            make,
            may_be_answered=recall.entry is None and not recall.is_due,
            limit_s=_patience_s(recall.waited_s),
        )

    async def _join(self, shared: SharedWork, recall: Recall, sink: Sink, receipt: Receipt) -> bool:
        """Read the work of another. False = that one's time ran out before its first text, and this one's has not."""
        request = recall.request
        async with shared.flight.reader() as reader:
            try:
                async with asyncio.timeout(max(0.0, request.deadline - self._clock())):
                    await self._read(reader, request, sink, receipt, lambda: True)
            except TimeoutError:
                raise over(request) from None
            except (DeadlineExceeded, UpstreamTimeout):
                if receipt.ttft_ms < 0 and self._clock() < request.deadline:
                    return False
                raise
            finally:
                self._conclude(receipt, shared, reader, is_joined=True)
        return True

    def _conclude(
        self, receipt: Receipt, shared: SharedWork, reader: Reader[Step], *, is_joined: bool
    ) -> None:
        """What a reader's own receipt says of the work, as far as it has read it."""
        made, used, own_ms = shared.made, shared.used_by(reader), receipt.queue_ms
        take_over(receipt, made)
        receipt.usage = used
        if is_joined:
            traced.joined(made.trace_id)
            receipt.embed_ms = receipt.search_ms = -1.0  # another's
            receipt.queue_ms = own_ms
            if made.cache not in HITS:
                receipt.cache, receipt.usage = "joined", self._weighed(used)

    async def _read(
        self,
        reader: Reader[Step],
        request: ChatRequest,
        sink: Sink,
        receipt: Receipt,
        is_joined: Callable[[], bool],
    ) -> None:
        """All steps of the work into the request's own sink, at its own pace. The receipt says what the memory did
        before the first text is sent, so that it can be told ahead of that."""
        while (step := await reader.next()) is not None:
            match step:
                case Sent():
                    if receipt.ttft_ms < 0:
                        receipt.ttft_ms = self._since(request.received)
                        receipt.cache = "joined" if is_joined() and step.cache not in HITS else step.cache
                    await sink.delta(step.text, step.citations, step.passages)
                case Told():
                    receipt.stage = step.stage
                    await sink.stage(step.stage)
                case Chosen():
                    sink.chosen(step.tier)
                case Waiting() if reader.is_live:  # of old, it says nothing any more
                    sink.waiting(step.position, step.eta_s)

    def _work_of(self, recall: Recall) -> SharedWork | None:
        """The same question's, where it is under way in the same band and may be read."""
        shared = self._under_way.get((recall.key, recall.request.priority)) if recall.reads else None
        return shared if shared is not None and shared.flight.is_open else None

    def _keep(self, recall: Recall, shared: SharedWork) -> asyncio.Task[None] | None:
        """Remember an answer that was made whole, by the tier that the request was for, on evidence that is known."""
        made, evidence, now = shared.made, recall.evidence, self._wall()
        if made.cache in HITS or evidence is None or made.tier != recall.tier or not made.finish_reason:
            return None
        if recall.version and made.version != recall.version and made.finish_reason != "no_answer":
            return None  # the rollout has moved on meanwhile
        if shared.was_begun_again and not is_of_one_piece(shared, evidence):
            return None
        spread = 1 + TTL_SPREAD * (2 * self._chance() - 1)
        entry = entry_of(
            recall.key, recall.request, shared, evidence,
            edition=recall.edition, created=now, expires=now + self._life_s(recall.request, evidence) * spread,
        )  # fmt: skip
        if not recall.is_drawn:
            self._near_answers.learn_later(recall.near, entry)
        return self.answers.keep(recall.key, entry)

    def _life_s(self, request: ChatRequest, evidence: Evidence) -> float:
        """The shortest of the collections that were asked or found in."""
        places = {*request.collections, *(passage.collection_id for passage in evidence.passages)}
        return min([self._ttl_s, *(self._ttl_s_of[each] for each in places if each in self._ttl_s_of)])

    def _weighed(self, usage: Usage) -> Usage:
        """What a hit is billed."""
        return Usage(
            math.ceil(self._weight * usage.prompt_tokens), math.ceil(self._weight * usage.completion_tokens)
        )

    def _since(self, start: float) -> float:
        return round((self._clock() - start) * 1000, 2)


def _patience_s(waited_s: float) -> float:
    """For Redis, after a read that took so long. One that took longer than it may took our own time, not Redis's."""
    return READ_LIMIT_S - waited_s if waited_s < READ_LIMIT_S else READ_LIMIT_S / 2
