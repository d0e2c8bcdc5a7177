"""A worker that is new takes up what others have remembered and learned: over a real Redis and a real database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.caching.kept_topics import KeptTopics
from gateway.caching.refill import refill
from gateway.caching.threshold import NEVER, Topic
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.redis_process import RedisProcess
from tests.fakes.workers import Worker, worker

WRITTEN, IN_OTHER_WORDS = "When was the fort rebuilt?", "In what year was the fort rebuilt?"
ROOM = 2**22


def of_one_meaning(made: Worker) -> None:
    """All questions have one vector, so that the guards and the evidence alone decide."""
    retrieve = made.retriever.retrieve

    async def alike(_text: str, *args: Any, **options: Any) -> Any:
        return await retrieve("the same", *args, **options)

    made.retriever.retrieve = alike  # type: ignore[method-assign]


async def started(made: Worker, *tenants: str) -> Worker:
    of_one_meaning(made)
    made.memory.kept_topics = KeptTopics(made.database, made.memory.thresholds)
    await made.memory.kept_topics.exchange()
    await refill(made.answers, made.redis, tenants, max_bytes=ROOM)
    return made


async def test_other_words_are_met_after_a_restart_as_before(own_redis: RedisProcess, tmp_path: Path) -> None:
    async with worker(tmp_path, own_redis.url) as first:
        await started(first)
        await first.ask(WRITTEN)
        assert (await first.ask(IN_OTHER_WORDS)).cache == "semantic"
    async with worker(tmp_path, own_redis.url) as second:
        await started(second, "acme")
        assert (await second.ask(IN_OTHER_WORDS)).cache == "semantic"
        assert (await second.ask(WRITTEN)).cache == "exact"
        assert second.answerer.started == 0


async def test_what_changed_between_two_runs_ends_its_answers_for_all_wordings(
    own_redis: RedisProcess, tmp_path: Path
) -> None:
    async with worker(tmp_path, own_redis.url) as first:
        await started(first)
        await first.ask(WRITTEN)
        epoch = await first.changed()
    for question in (IN_OTHER_WORDS, WRITTEN):
        async with worker(tmp_path, own_redis.url) as second:
            await started(second, "acme")
            second.retriever.epoch = epoch
            second.retriever.passages = [passage(5, "The fort was rebuilt in 1964."), PASSAGES[1]]
            assert (await second.ask(question)).cache == "miss"


async def test_a_topic_that_was_closed_stays_closed(own_redis: RedisProcess, tmp_path: Path) -> None:
    topic = Topic("acme", "fast")
    async with worker(tmp_path, own_redis.url) as first:
        await started(first)
        await first.ask(WRITTEN)
        for _ in range(20):
            first.memory.thresholds.observe(topic, 0.99, was_right=False)
        assert first.memory.kept_topics is not None
        await first.memory.kept_topics.close()
    async with worker(tmp_path, own_redis.url) as second:
        await started(second, "acme")
        assert second.memory.thresholds.of(topic) == NEVER
        assert (await second.ask(IN_OTHER_WORDS)).cache == "miss"
