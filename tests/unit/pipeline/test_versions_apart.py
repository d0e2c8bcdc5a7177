"""While a rollout has two versions of a model at work: each has its own remembered answers, and its own figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.errors import UpstreamUnavailable
from gateway.pipeline.request import ChatRequest, pin_of
from gateway.tiering.versions import Met
from gateway.types import Tenant
from tests.fakes.memory import MemoryBench


class Rollout:
    """Which version each conversation meets: by its first question."""

    def __init__(self) -> None:
        self.by_pin: dict[int, Met] = {}
        self.default = Met("stable", "v1")

    def met(self, tier: str, pin: int) -> Met:
        return self.by_pin.get(pin, self.default) if tier == "writer" else Met("stable", "")


@pytest.fixture
def rollout() -> Rollout:
    return Rollout()


@pytest_asyncio.fixture
async def bench(tmp_path: Path, rollout: Rollout) -> AsyncIterator[MemoryBench]:
    made = MemoryBench(tmp_path, version_met=rollout.met)
    await made.watch.look()
    made.answerer.version = "v1"
    yield made
    made.close()


def counted(bench: MemoryBench, version: str, side: str, result: str) -> float:
    labels = {"tier": "writer", "version": version, "side": side, "result": result}
    return bench.metrics.registry.get_sample_value("tidegate_version_answers_total", labels) or 0.0


async def ask(bench: MemoryBench, **changes: object) -> tuple[str, str]:
    """What the cache did, and the version that wrote the answer."""
    receipt = await bench.ask(model="writer", **changes)
    return receipt.cache, receipt.version


async def test_an_answer_of_one_version_is_none_of_the_other(bench: MemoryBench, rollout: Rollout) -> None:
    assert await ask(bench) == ("miss", "v1")
    assert (await ask(bench))[0] == "exact"
    rollout.default, bench.answerer.version = Met("canary", "v2"), "v2"
    assert await ask(bench) == ("miss", "v2")
    assert (await ask(bench))[0] == "exact"
    rollout.default = Met(
        "stable", "v1"
    )  # the trial was aborted: what the version in force had said is there still
    assert (await ask(bench))[0] == "exact"


async def test_a_near_question_gets_no_answer_of_the_other_version(
    bench: MemoryBench, rollout: Rollout
) -> None:
    await ask(bench, question="What is a tide gate?")
    rollout.default, bench.answerer.version = Met("canary", "v2"), "v2"
    assert (await ask(bench, question="what is a tide gate"))[0] == "miss"


async def test_an_answer_that_another_version_wrote_is_not_kept(bench: MemoryBench) -> None:
    """The rollout moved between the look and the answer."""
    bench.answerer.version = "v2"
    assert await ask(bench) == ("miss", "v2")
    assert len(bench.answers) == 0


async def test_an_answer_that_two_versions_wrote_is_not_kept(bench: MemoryBench) -> None:
    bench.answerer.version = ""  # as the tier tells it when an answer went on at another replica
    assert await ask(bench) == ("miss", "")
    assert len(bench.answers) == 0


async def test_where_there_is_no_telling_nothing_is_remembered(bench: MemoryBench, rollout: Rollout) -> None:
    rollout.default = Met("stable", None)
    assert [(await ask(bench))[0] for _ in range(2)] == ["off", "off"]
    assert len(bench.answers) == 0


async def test_tiers_without_versions_are_remembered_as_ever(bench: MemoryBench) -> None:
    bench.answerer.version = ""
    assert [(await bench.ask(model="fast")).cache for _ in range(2)] == ["miss", "exact"]


async def test_each_version_has_its_own_figures(bench: MemoryBench, rollout: Rollout) -> None:
    await ask(bench, question="One?")
    rollout.default = Met("canary", "v2")
    bench.answerer.fail_with = UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await ask(bench, question="Two?")
    bench.answerer.fail_with, bench.answerer.version = None, "v2"
    await ask(bench, question="Three?")
    await ask(bench, question="Three?")  # remembered: written by nobody
    assert (counted(bench, "v1", "stable", "ok"), counted(bench, "v1", "stable", "failed")) == (1, 0)
    assert (counted(bench, "v2", "canary", "ok"), counted(bench, "v2", "canary", "failed")) == (1, 1)
    first = bench.metrics.registry.get_sample_value
    for version, side in (("v1", "stable"), ("v2", "canary")):
        labels = {"tier": "writer", "version": version, "side": side}
        assert first("tidegate_version_first_text_seconds_count", labels) == 1


async def test_an_answer_says_itself_which_version_it_counts_for(
    bench: MemoryBench, rollout: Rollout
) -> None:
    rollout.default = Met("stable", None)  # two at once, in the middle of an update
    await ask(bench, question="One?")
    assert counted(bench, "v1", "stable", "ok") == 1
    bench.answerer.fail_with = UpstreamUnavailable("away")
    with pytest.raises(UpstreamUnavailable):
        await ask(bench, question="Two?")
    assert counted(bench, "unknown", "stable", "failed") == 1


def test_a_conversation_has_one_pin() -> None:
    def request(question: str) -> ChatRequest:
        return ChatRequest(
            id="x", tenant=Tenant("acme"), model="writer", question=question, received=0, deadline=1, created=1,
            conversation="conv_1",
        )  # fmt: skip

    assert pin_of(request("One?")) == pin_of(request("Two?"))
