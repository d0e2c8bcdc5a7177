"""Near answers that may not be given yet: they are compared with what is made instead, and open the topic again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.caching.threshold import NEVER, Thresholds, Topic
from gateway.errors import UpstreamUnavailable
from gateway.types import Tenant
from tests.fakes.memory import MemoryBench
from tests.fakes.pipelines import ListeningSink
from tests.unit.pipeline.test_near_questions import near

TOPIC = Topic("acme", "fast")


@pytest.fixture
def thresholds() -> Thresholds:
    """Only the same question is met, since two hits of acme's were wrong."""
    made = Thresholds(0.005)
    for _ in range(2):
        made.observe(TOPIC, 0.99, was_right=False)
    assert made.of(TOPIC) == NEVER
    return made


@pytest_asyncio.fixture
async def closed(tmp_path: Path, thresholds: Thresholds) -> AsyncIterator[MemoryBench]:
    bench = MemoryBench(tmp_path, thresholds=thresholds)
    await bench.watch.look()
    yield bench
    bench.close()


async def until_compared(thresholds: Thresholds, count: int) -> None:
    async with asyncio.timeout(5):
        while thresholds.shadows.num_compared < count:  # noqa: ASYNC110 - it tells nobody of what it learns
            await asyncio.sleep(0.002)


async def test_a_closed_topic_learns_from_answers_that_are_made_anyway_and_opens_again(
    closed: MemoryBench, thresholds: Thresholds
) -> None:
    near(closed, lambda text: "".join(filter(str.isdigit, text)))
    for number in range(1, 251):
        first = await closed.ask(f"When was fort {number} rebuilt?")
        other = await closed.ask(f"In what year was fort {number} rebuilt?")
        if other.cache == "semantic":
            break
        assert (first.cache, other.cache) == ("miss", "miss")
        await until_compared(thresholds, number)
    assert other.cache == "semantic"
    assert 150 < thresholds.shadows.num_compared < 250
    assert thresholds.shadows.num_wrong == 0


async def test_a_wrong_shadow_is_counted_and_nobody_gets_it(
    closed: MemoryBench, thresholds: Thresholds
) -> None:
    near(closed)
    await closed.ask("When was the fort rebuilt?")
    closed.answerer.texts = ["Quite another answer."]
    sink = ListeningSink()
    assert (await closed.into(sink, "In what year was the fort rebuilt?")).cache == "miss"
    assert sink.text == "Quite another answer."
    await until_compared(thresholds, 1)
    assert (thresholds.shadows.num_wrong, thresholds.of(TOPIC)) == (1, NEVER)
    read = closed.metrics.registry.get_sample_value
    assert read("tidegate_cache_shadows_total", {"result": "wrong"}) == 1


async def test_what_a_guard_objects_to_is_no_shadow(closed: MemoryBench, thresholds: Thresholds) -> None:
    near(closed)
    await closed.ask("How do I turn on the lamp?")
    await closed.ask("How do I turn off the lamp?")
    await closed.ask("Please tell me: How do I turn off the lamp?")
    await until_compared(thresholds, 1)
    assert (thresholds.shadows.num_compared, thresholds.shadows.num_wrong) == (1, 0)


async def test_a_tenant_learns_nothing_from_anothers_answers(
    closed: MemoryBench, thresholds: Thresholds
) -> None:
    near(closed)
    await closed.ask("When was the fort rebuilt?", tenant=Tenant("rival"))
    given = await closed.ask("In what year was the fort rebuilt?", tenant=Tenant("rival"))
    assert given.cache == "semantic"
    await closed.ask("When was the fort rebuilt?")
    assert (await closed.ask("In what year was the fort rebuilt?")).cache == "miss"
    await until_compared(thresholds, 1)
    assert [each.topic for each in thresholds.topics(5)] == [TOPIC]


async def test_an_answer_that_broke_off_teaches_nothing(closed: MemoryBench, thresholds: Thresholds) -> None:
    near(closed)
    await closed.ask("When was the fort rebuilt?")
    closed.answerer.fail_with, closed.answerer.fail_at = UpstreamUnavailable("away"), 1
    with pytest.raises(UpstreamUnavailable):
        await closed.ask("In what year was the fort rebuilt?")
    closed.answerer.fail_with = None
    await closed.ask("Please tell me: When was the fort rebuilt?")
    await until_compared(thresholds, 1)
    assert thresholds.shadows.num_compared == 1


async def test_a_check_that_fails_teaches_nothing(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, chance=lambda: 0.01)
    await bench.watch.look()
    near(bench)
    await bench.ask("When was the fort rebuilt?")
    bench.answerer.fail_with = UpstreamUnavailable("away")
    assert (await bench.ask("In what year was the fort rebuilt?")).cache == "semantic"
    while bench.memory._checks.tasks:
        await asyncio.wait(bench.memory._checks.tasks)
    assert bench.memory.thresholds.checked.num_compared == 0
    bench.close()


async def test_a_topics_first_hits_are_checked_more_often(tmp_path: Path) -> None:
    bench = MemoryBench(tmp_path, chance=lambda: 0.1)
    checks, thresholds = bench.memory._checks, bench.memory.thresholds
    assert checks.is_due(TOPIC)
    for _ in range(50):
        thresholds.observe(TOPIC, 0.9, was_right=True)
    assert not checks.is_due(TOPIC)
    bench.close()
