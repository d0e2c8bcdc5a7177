"""Another wording's answer: which one may be given, and what is learned from those that may not yet.

A near question below its topic's threshold is a shadow: its answer is not given, and once the one that is made instead
has gone out, the two are compared. That costs no generation, teaches the threshold in both directions, and shows no
reader a wrong answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gateway.caching.answers import Answers
from gateway.caching.entry import Entry, agreement, chunk_ids
from gateway.caching.guards import objection
from gateway.caching.key import Key
from gateway.caching.semantic import Neighbour
from gateway.caching.threshold import FLOOR, Thresholds, Topic
from gateway.metrics import Metrics
from gateway.pipeline.hit_check import HitChecks
from gateway.pipeline.request import ChatRequest, Evidence

SAME_EVIDENCE = 0.5  # share of chunks that a near question's retrieval must have in common with the answer's
SIMILAR = 0.7  # cosine from which on a question is like another, for a labelled answer under load
LEARN_AFTER_S = 0.02  # the answer's last words are sent first


class Asked(NamedTuple):
    """A question that no answer is remembered to, as retrieval has left it. tier: that it is for."""

    key: Key
    topic: Topic
    question: str
    tier: str
    evidence: Evidence


class Found(NamedTuple):
    """entry: another wording's answer, which may be given. below: near questions under the threshold, nearest first."""

    asked: Asked
    entry: Entry | None = None
    similarity: float = 0.0
    below: Sequence[Neighbour] = ()


class NearAnswers:
    def __init__(self, answers: Answers, thresholds: Thresholds, checks: HitChecks, metrics: Metrics) -> None:
        self._answers, self._thresholds, self._checks, self._metrics = answers, thresholds, checks, metrics

    def find(self, key: Key, request: ChatRequest, tier: str, evidence: Evidence) -> Found:
        """The answer to the nearest question that asks the same and stands on the same evidence."""
        topic = Topic(key.tenant_id, tier, tuple(sorted(set(request.collections))))
        asked = Asked(key, topic, request.question, tier, evidence)
        if evidence.embedding is None or self._thresholds.budget <= 0:
            return Found(asked)
        threshold = self._thresholds.of(topic)
        near = self._answers.nearest(key.scope, evidence.embedding, FLOOR)
        below = [each for each in near if each.similarity < threshold]
        for neighbour, entry, objects in self._judged(asked, near[: len(near) - len(below)]):
            if objects is None:
                self._answers.held(key.tenant_id, neighbour.digest)  # which counts that it was asked for
                return Found(asked, entry, min(neighbour.similarity, 1.0))
            self._metrics.cache_objections.labels(objects).inc()
        return Found(asked, below=below)

    def similar(self, key: Key, request: ChatRequest, tier: str, evidence: Evidence) -> Found:
        """The answer to a question that is only like this one, for whoever is told so: no guard objects, and all that
        it quotes was found for this one too. key: of the scope to look in."""
        asked = Asked(key, Topic(key.tenant_id, tier, ()), request.question, tier, evidence)
        if evidence.embedding is None:
            return Found(asked)
        found = chunk_ids(evidence.passages)
        for neighbour in self._answers.nearest(key.scope, evidence.embedding, SIMILAR):
            entry = self._answers.held(key.tenant_id, neighbour.digest)
            if entry is None or entry.tier != tier or not quoted_by(entry) or not quoted_by(entry) <= found:
                continue
            if objection(entry.question, request.question) is None:
                return Found(asked, entry, min(neighbour.similarity, 1.0))
        return Found(asked)

    def learn_later(self, found: Found | None, made: Entry) -> None:
        """made: the answer to the question itself, which has just been given."""
        if found is not None and found.below:
            asyncio.get_running_loop().call_later(LEARN_AFTER_S, self._learn, found, made)

    def _learn(self, found: Found, made: Entry) -> None:
        for neighbour, entry, objects in self._judged(found.asked, found.below):
            if objects is None:  # what would have been given
                self._checks.take_shadow(found.asked.topic, neighbour.similarity, entry, made)
                return

    def _judged(
        self, asked: Asked, near: Sequence[Neighbour]
    ) -> Iterator[tuple[Neighbour, Entry, str | None]]:
        """Those near questions whose answers are still held, each with what objects to giving it; None = nothing."""
        for neighbour in near:
            entry = self._answers.peek(asked.key.tenant_id, neighbour.digest)
            if entry is None or neighbour.digest == asked.key.digest or entry.tier != asked.tier:
                continue
            objects = objection(entry.question, asked.question)
            if objects is None and not stands_on(entry, asked.evidence):
                objects = "evidence"
            yield neighbour, entry, objects


def quoted_by(entry: Entry) -> frozenset[int]:
    """The chunks that its answer quotes."""
    return chunk_ids([entry.passages[number - 1] for number in entry.cited])


def stands_on(entry: Entry, evidence: Evidence) -> bool:
    """Whether a retrieval for another wording bears the answer: every passage that it quotes was found again at its
    version, the best one found was known to the answer, and most of the rest is the same."""
    found, quoted = chunk_ids(evidence.passages), quoted_by(entry)
    if not evidence.passages or not entry.passages or not quoted <= found:
        return not evidence.passages and not entry.passages
    best = chunk_ids(evidence.passages[:1])
    return (
        bool(best & chunk_ids(entry.passages))
        and agreement(entry.passages, evidence.passages) >= SAME_EVIDENCE
    )
