"""A stream whose slot is asked back, on a real Triton and its real engine: it goes on word for word.

The whole of it: the pipeline, the queue in Redis, the slots of the engine. Greedy, with f32 weights, so that an answer
is the same one however often it is broken off.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from gateway.admission.recall import MIN_HELD_MS
from gateway.admission.redis_queue import RedisQueue
from gateway.chat import ChatPipeline, ChatRequest
from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.prepare import prepared_folder
from gateway.generation.triton_generator import TritonGenerator
from gateway.metrics import Metrics
from gateway.pipeline.interrupted import MAX_TIMES
from gateway.tier_config import generate_tiers
from gateway.tiering.tiers import Tier, TierBook
from gateway.triton import TritonClient
from gateway.types import Citation, Outcome, Passage, Receipt, Sampling, Tenant
from tests.fakes.checkpoints import MAKING_S, TinyCheckpoint, tiny_checkpoints
from tests.fakes.engines import ScriptedRetriever
from tests.fakes.pipelines import ListeningSink
from tests.fakes.triton_process import TritonProcess, running_tiers
from tests.integration.queue.conftest import Workers, workers

__all__ = ["tiny_checkpoints", "workers"]
pytestmark = pytest.mark.timeout(MAKING_S)

SLOTS = 4
CONTEXT_TOKENS = 2000
LONG_TOKENS = 900  # seconds of work for four at once
SHORT_TOKENS = 12
GROWN_S = MIN_HELD_MS / 1000 + 0.05
ASKED_BACK_S = 2.0  # until the permit comes: a call of Redis, a message, the end of the stream that gives way
HANDED_OVER_S = 3.0  # until the first word: the engine sees within a few steps that the other one has left


@pytest.fixture(scope="module")
def triton(
    triton_installed: None,
    tiny_checkpoints: dict[str, TinyCheckpoint],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("giving_way")
    tiny = tiny_checkpoints["llama"]
    table = tiny.table("small", slots=SLOTS, context_tokens=CONTEXT_TOKENS)
    with running_tiers(folder, tiny.models_dir, table) as process:
        yield process


@dataclass
class Client(ListeningSink):
    """text_at: when its pieces came, monotonic seconds."""

    text_at: list[float] = field(default_factory=list)

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        await super().delta(text, citations, passages)
        self.text_at.append(time.monotonic())


Asked = tuple[Client, "asyncio.Task[Receipt]"]


@dataclass
class Bench:
    pipeline: ChatPipeline
    queue: RedisQueue
    gauges_url: str
    num_running: list[int] = field(default_factory=list)  # as the engine itself said, in order

    def ask(self, tenant: str, question: str, max_tokens: int = LONG_TOKENS, **changes: Any) -> Asked:
        changes = {"sampling": greedy(max_tokens), **changes}
        now, client = time.monotonic(), Client()
        request = ChatRequest(
            id=f"{tenant}-{question}", tenant=Tenant(tenant), model="small", question=question, created=1,
            received=now, deadline=now + 60, **changes,
        )  # fmt: skip
        return client, asyncio.create_task(self.pipeline.run(request, client))

    async def flood(self, questions: list[str], **changes: Any) -> list[Asked]:
        """All slots taken by one tenant, all writing, and long enough to be asked back."""
        asked = []
        for question in questions:
            asked.append(self.ask("flood", question, **changes))
            await until(lambda: asked[-1][0].texts)
        await asyncio.sleep(GROWN_S)
        assert not any(task.done() for _, task in asked)
        return asked

    async def watch(self) -> None:
        while True:
            self.num_running.append(await asyncio.to_thread(running, self.gauges_url))
            await asyncio.sleep(0.01)

    async def is_idle(self) -> None:
        """No slot is left behind, in the queue or in the engine."""
        await until(lambda: self.queue.inflight == self.queue.num_waiting == 0)
        async with asyncio.timeout(5):
            while await asyncio.to_thread(running, self.gauges_url):  # noqa: ASYNC110  a poll it is
                await asyncio.sleep(0.01)


def greedy(max_tokens: int = LONG_TOKENS, **changes: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, temperature=0.0, **changes)


def running(url: str) -> int:
    with urllib.request.urlopen(url, timeout=5) as answer:
        found = re.search(
            r'^tidegate_generate_running{tier="small"} (\S+)$', answer.read().decode(), re.MULTILINE
        )
    return int(float(found[1])) if found else 0


async def until(what: Any) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110  any condition
            await asyncio.sleep(0.002)


class Records:
    def record(self, tenant: Tenant, receipt: Receipt) -> None: ...


@pytest_asyncio.fixture
async def bench(triton: TritonProcess, workers: Workers) -> AsyncIterator[Bench]:
    (tier,) = generate_tiers(triton.settings)
    chat = ChatFormat.load(prepared_folder(tier, triton.settings.models_dir))
    client, queue = TritonClient(triton.target), await workers.start(limit=SLOTS, max_waiting=50, ttl_s=60)
    pipeline = ChatPipeline(
        retriever=ScriptedRetriever(),
        answerers={"small": TritonGenerator(client, tier, chat)},
        tiers=TierBook([Tier("small", "Writes.", 2, SLOTS, context_tokens=CONTEXT_TOKENS)]),
        queues={"small": queue},
        record=Records(),
        metrics=Metrics(),
        preemptible={"small"},
    )
    made = Bench(pipeline, queue, f"http://127.0.0.1:{triton.settings.triton_ports(0)[2]}/metrics")
    watching = asyncio.create_task(made.watch())
    yield made
    assert not watching.done(), "the engine told its count to the end"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await client.close()


Undisturbed = dict[str, tuple[str, Receipt]]


@pytest.fixture(scope="module")
def known() -> Undisturbed:
    return {}


@pytest_asyncio.fixture
async def undisturbed(bench: Bench, known: Undisturbed) -> Undisturbed:
    """Four questions whose answers go on for long, each with what it gets where nobody else asks."""
    for number in range(20):
        if len(known) == SLOTS:
            break
        question = f"What does Envoy do? {number}"
        client, task = bench.ask("alone", question)
        receipt = await task
        if receipt.finish_reason == "length":
            known[question] = client.text, receipt
    assert len(known) == SLOTS, "most answers ended early"
    await bench.is_idle()
    return known


async def whole(flood: list[Asked], undisturbed: Undisturbed) -> int:
    """How often they were broken off in all; each is word for word what it would have been."""
    receipts = [await task for _, task in flood]
    for (client, _), mine, (text, alone) in zip(flood, receipts, undisturbed.values(), strict=True):
        assert client.text == text
        assert mine.usage == alone.usage
        assert mine.usage.completion_tokens == LONG_TOKENS
        assert (mine.outcome, mine.finish_reason) == (Outcome.COMPLETED, "length")
        assert mine.unsupported_citations == alone.unsupported_citations
        assert mine.preempted <= MAX_TIMES
    return sum(each.preempted for each in receipts)


async def test_a_flooders_answer_goes_on_word_for_word(bench: Bench, undisturbed: Undisturbed) -> None:
    flood = await bench.flood(list(undisturbed))
    light, task = bench.ask("light", "Who?", SHORT_TOKENS)
    receipt = await task
    assert receipt.outcome is Outcome.COMPLETED
    assert receipt.queue_ms < 1000 * ASKED_BACK_S
    assert receipt.ttft_ms < 1000 * HANDED_OVER_S
    assert await whole(flood, undisturbed) == 1
    assert light.text_at[-1] < min(client.text_at[-1] for client, _ in flood), "it waited for no end"
    await bench.is_idle()
    assert max(bench.num_running) == SLOTS


async def test_light_tenants_one_after_another(bench: Bench, undisturbed: Undisturbed) -> None:
    """Answers are broken off in many places, some twice; the engine never has more than its slots."""
    flood = await bench.flood(list(undisturbed))
    ttfts = []
    while not any(task.done() for _, task in flood):
        _, task = bench.ask(f"light{len(ttfts)}", "Who?", SHORT_TOKENS)
        ttfts.append((await task).ttft_ms)
        await asyncio.sleep(0.013 * (len(ttfts) % 4))
    broken = await whole(flood, undisturbed)
    assert broken >= 2
    await bench.is_idle()
    assert max(bench.num_running) == SLOTS


async def test_a_stop_text_is_found_after_the_break(bench: Bench, undisturbed: Undisturbed) -> None:
    stops = {question: stop_near_the_end(text) for question, (text, _) in undisturbed.items()}
    flood = [bench.ask("flood", question, sampling=greedy(stop=[stop])) for question, stop in stops.items()]
    await until(lambda: all(client.texts for client, _ in flood))
    await asyncio.sleep(GROWN_S)
    _, task = bench.ask("light", "Who?", SHORT_TOKENS)
    await task
    receipts = [await task for _, task in flood]
    assert sum(each.preempted for each in receipts) == 1
    for (client, _), mine, (text, _) in zip(flood, receipts, undisturbed.values(), strict=True):
        assert client.text.rstrip() == text[: text.index(stops[mine.id.removeprefix("flood-")])].rstrip()
        assert mine.finish_reason == "stop"
    await bench.is_idle()


def stop_near_the_end(text: str) -> str:
    """A piece of the answer that comes late in it and not before."""
    found = (text[at : at + 8] for at in range(len(text) * 9 // 10, len(text) - 8))
    return next(piece for piece in found if text.index(piece) > len(text) * 4 // 5)


@pytest.mark.parametrize("after_s", [0.0, 0.002, 0.01, 0.04, 0.08], ids=str)
async def test_who_leaves_while_the_slot_changes_hands_leaves_nothing(
    bench: Bench, undisturbed: Undisturbed, after_s: float
) -> None:
    flood = await bench.flood(list(undisturbed))
    _, task = bench.ask("light", "Who?")
    await asyncio.sleep(after_s)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await whole(flood, undisturbed) <= 1
    await bench.is_idle()


async def test_a_flooder_that_leaves_while_it_waits_again_leaves_nothing(
    bench: Bench, undisturbed: Undisturbed
) -> None:
    flood = await bench.flood(list(undisturbed))
    _, task = bench.ask("light", "Who?")
    await until(lambda: any(client.places for client, _ in flood))
    for client, each in flood:
        if client.places:
            each.cancel()
    receipts = await asyncio.gather(*(each for _, each in flood), return_exceptions=True)
    assert [isinstance(each, Receipt) for each in receipts].count(False) == 1
    assert (await task).outcome is Outcome.COMPLETED
    await bench.is_idle()


async def test_batch_gives_way_to_people_of_the_same_tenant(bench: Bench, undisturbed: Undisturbed) -> None:
    flood = await bench.flood(list(undisturbed), priority="batch")
    people = [bench.ask("flood", f"Who? {number}", SHORT_TOKENS) for number in range(2)]
    assert max([(await task).ttft_ms for _, task in people]) < 1000 * HANDED_OVER_S
    assert await whole(flood, undisturbed) == 2
    await bench.is_idle()
    assert max(bench.num_running) == SLOTS
