"""Language models as tiers of the whole service: two tiny checkpoints of random weights, two Triton replicas."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import OpenAI

from tests.e2e.conftest import Launch, Service, wait_for
from tests.fakes.checkpoints import TinyCheckpoint, tiny_checkpoints

__all__ = ["tiny_checkpoints"]
pytestmark = pytest.mark.timeout(600)

QUESTION = "What does Envoy do?"
CONTEXT_TOKENS = 1800
LONG_TOKENS = 800  # about a second of work
SLOTS = 2
NUM_REPLICAS = 2


@pytest.fixture(scope="module")
def writing(
    launch: Launch, tiny_checkpoints: dict[str, TinyCheckpoint], tmp_path_factory: pytest.TempPathFactory
) -> Service:
    folder = tmp_path_factory.mktemp("writing")
    options = {"slots": SLOTS, "context_tokens": CONTEXT_TOKENS, "max_tokens": 64}
    tables = [
        tiny_checkpoints["llama"].table("small", **options),
        tiny_checkpoints["qwen2"].table("other", **options),
    ]
    (folder / "tiers.toml").write_text("\n".join(tables))
    var = folder / "var"
    var.mkdir()
    (var / "models").symlink_to(tiny_checkpoints["llama"].models_dir)
    return launch(
        var,
        tiers_file=str(folder / "tiers.toml"),
        triton_replicas=NUM_REPLICAS,
        gateway_workers=1,
        queue_max=64,
    )


@pytest.fixture(scope="module")
def long_question(writing: Service) -> str:
    """One whose greedy answer goes on for LONG_TOKENS: random weights may end an answer anywhere."""
    for number in range(20):
        question = f"{QUESTION} {number}"
        reply = ask(writing, question=question, max_tokens=LONG_TOKENS)
        if reply["choices"][0]["finish_reason"] == "length":
            return question
    raise AssertionError("every answer ended early")


def body(model: str = "small", question: str = QUESTION, **extra: Any) -> dict[str, Any]:
    """To see the engine at work, no answer comes from memory."""
    asked = {"model": model, "messages": [{"role": "user", "content": question}]}
    return {**asked, **extra, "tidegate": {"cache": "off", **extra.get("tidegate", {})}}


def ask(service: Service, **changes: Any) -> dict[str, Any]:
    with service.client() as client:
        reply = client.post("/v1/chat/completions", json=body(**changes), timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def text_of(reply: dict[str, Any]) -> str:
    return str(reply["choices"][0]["message"]["content"])


def engine_count(service: Service, name: str, tier: str = "small") -> float:
    """A gauge of the engines themselves, over all replicas that answer."""
    total = 0.0
    for replica in range(NUM_REPLICAS):
        try:
            text = httpx.get(
                f"http://127.0.0.1:{service.settings.triton_ports(replica)[2]}/metrics", timeout=2
            ).text
        except httpx.HTTPError:
            continue
        found = re.search(rf'^{name}{{[^}}]*"{tier}"[^}}]*}} (\S+)$', text, re.MULTILINE)
        total += float(found[1]) if found else 0.0
    return total


def test_configured_tiers_are_among_the_models(writing: Service) -> None:
    with writing.client() as client:
        rows = {row["id"]: row["tidegate"] for row in client.get("/v1/models").json()["data"]}
    assert rows["small"]["slots"] == rows["other"]["slots"] == SLOTS * NUM_REPLICAS
    assert rows["small"]["context_tokens"] == CONTEXT_TOKENS


def test_both_write_answers_with_the_engines_own_counts(writing: Service) -> None:
    replies = {model: ask(writing, model=model, max_tokens=20) for model in ("small", "other")}
    assert text_of(replies["small"]) != text_of(replies["other"])
    for model, reply in replies.items():
        receipt = reply["tidegate"]["receipt"]
        assert (reply["model"], receipt["tier"], receipt["tier_reason"]) == (
            model,
            model,
            "asked for by name",
        )
        assert 0 < reply["usage"]["completion_tokens"] <= 20
        assert 100 < reply["usage"]["prompt_tokens"] < CONTEXT_TOKENS - 20
        shown = [passage["in_prompt"] for passage in receipt["passages"]]
        assert shown == sorted(shown, reverse=True)
        assert shown[0]


def test_a_stream_and_a_whole_answer_are_the_same_text(writing: Service) -> None:
    whole = text_of(ask(writing))
    client = OpenAI(base_url=f"{writing.base_url}/v1", api_key=writing.api_key)
    asked = body(stream=True)
    ours = {"tidegate": asked.pop("tidegate")}
    stream = client.chat.completions.create(**asked, extra_body=ours)
    parts = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(parts) == whole
    assert whole


def test_sampling_reaches_the_engine(writing: Service) -> None:
    greedy = text_of(ask(writing))
    warm = [text_of(ask(writing, temperature=1.5, seed=seed)) for seed in (1, 1, 2)]
    assert warm[0] == warm[1]
    assert len({greedy, warm[0], warm[2]}) == 3


def test_a_stop_text_ends_the_answer_before_it(writing: Service) -> None:
    whole = text_of(ask(writing))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    reply = ask(writing, stop=[stop])
    assert text_of(reply).rstrip() == whole[: whole.index(stop)].rstrip()
    assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_question_over_the_context_is_a_clear_400(writing: Service) -> None:
    with writing.client() as client:
        reply = client.post("/v1/chat/completions", json=body(question="tide gate " * 2500))
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "prompt_too_long", "messages")
    assert re.search(r"have \d+ tokens; the tier 'small' takes at most \d+", error["message"])


def test_a_long_conversation_loses_its_oldest_turns_and_is_answered(writing: Service) -> None:
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"turn {n} " * 40} for n in range(40)]
    with writing.client() as client:
        messages = [*turns, {"role": "user", "content": QUESTION}]
        reply = client.post(
            "/v1/chat/completions", json={"model": "small", "messages": messages, "max_tokens": 8}, timeout=60
        )
    assert reply.status_code == 200, reply.text
    assert reply.json()["usage"]["prompt_tokens"] < CONTEXT_TOKENS


def test_a_follow_up_is_searched_for_as_what_it_means_and_removed_marks_are_told(writing: Service) -> None:
    talk = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Envoy balances. [1]"},
        {"role": "user", "content": "How does it do that?"},
    ]
    with writing.client() as client:
        asked = {"model": "small", "messages": talk, "max_tokens": 8}
        reply = client.post("/v1/chat/completions", json=asked, timeout=60).json()
    receipt = reply["tidegate"]["receipt"]
    assert receipt["question"].startswith("How does Envoy do")
    assert receipt["passages"]
    assert receipt["unsupported_citations"] >= 0


async def test_never_more_in_flight_than_slots_and_nothing_queues_in_triton(writing: Service) -> None:
    limit = SLOTS * NUM_REPLICAS
    seen: list[tuple[float, float]] = []
    headers = {"authorization": f"Bearer {writing.api_key}"}
    async with httpx.AsyncClient(base_url=writing.base_url, headers=headers, timeout=120) as client:
        asked = body(max_tokens=64, tidegate={"events": True}, stream=True)
        tasks = [asyncio.create_task(client.post("/v1/chat/completions", json=asked)) for _ in range(16)]
        while not all(task.done() for task in tasks):
            seen.append(
                await asyncio.to_thread(
                    lambda: (engine_count(writing, "tidegate_generate_running"), pending(writing))
                )
            )
        replies = [task.result() for task in tasks]
    assert [reply.status_code for reply in replies] == [200] * 16
    assert all('"outcome":"completed"' in reply.text for reply in replies)
    assert any('"queue":{"position":' in reply.text for reply in replies)
    assert max(running for running, _ in seen) > 1
    assert max(running for running, _ in seen) <= limit
    assert max(waiting for _, waiting in seen) <= limit  # Triton counts those under way as well


def pending(service: Service) -> float:
    total = 0.0
    for replica in range(NUM_REPLICAS):
        text = httpx.get(
            f"http://127.0.0.1:{service.settings.triton_ports(replica)[2]}/metrics", timeout=2
        ).text
        found = re.search(
            r'^nv_inference_pending_request_count{model="small"[^}]*} (\S+)$', text, re.MULTILINE
        )
        total += float(found[1]) if found else 0.0
    return total


async def test_a_client_that_leaves_frees_the_engines_slot(writing: Service, long_question: str) -> None:
    headers = {"authorization": f"Bearer {writing.api_key}"}

    def is_running(count: int) -> bool:
        return engine_count(writing, "tidegate_generate_running") == count

    async with httpx.AsyncClient(base_url=writing.base_url, headers=headers, timeout=60) as client:
        asked = body(question=long_question, max_tokens=LONG_TOKENS, stream=True)
        # Looked for from the start on: the answer is not long.
        at_work = asyncio.create_task(
            asyncio.to_thread(wait_for, lambda: is_running(1), 10, "the engine at work")
        )
        async with client.stream("POST", "/v1/chat/completions", json=asked) as reply:
            lines = reply.aiter_lines()  # held: an iterator that is dropped closes the connection
            while not (await anext(lines)).startswith("data: {"):
                pass
            await at_work
    left_s = await asyncio.to_thread(wait_for, lambda: is_running(0), 5, "the free slot")
    assert left_s < 2


def engine_stubs(service: Service, tier: str) -> list[psutil.Process]:
    return [
        child
        for replica in range(NUM_REPLICAS)
        for child in service.triton(replica).children(recursive=True)
        if "stub" in child.name() and f"/{tier}/" in " ".join(child.cmdline())
    ]


def busiest(stubs: list[psutil.Process], since: Callable[[psutil.Process], float]) -> psutil.Process:
    return max(stubs, key=lambda stub: sum(stub.cpu_times()[:2]) - since(stub))


async def test_an_answer_survives_its_replica(writing: Service, long_question: str) -> None:
    """The stub that writes is killed in mid-stream: the text goes on on the other replica as if nothing were."""
    asked = body(question=long_question, max_tokens=LONG_TOKENS)
    options = {"question": long_question, "max_tokens": LONG_TOKENS}
    expected = text_of(await asyncio.to_thread(lambda: ask(writing, **options)))
    before = {stub.pid: sum(stub.cpu_times()[:2]) for stub in engine_stubs(writing, "small")}
    headers = {"authorization": f"Bearer {writing.api_key}"}
    text, killed = "", 0.0
    async with (
        httpx.AsyncClient(base_url=writing.base_url, headers=headers, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as reply,
    ):
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            assert "error" not in event, event
            text += "".join(each["delta"].get("content", "") for each in event["choices"])
            if text and not killed:
                stubs = engine_stubs(writing, "small")
                os.kill(busiest(stubs, lambda stub: before[stub.pid]).pid, signal.SIGKILL)
                killed = time.monotonic()
    assert killed
    assert text == expected
    await asyncio.to_thread(
        wait_for,
        lambda: all(writing.replica_is_healthy(n) for n in range(NUM_REPLICAS)),
        60,
        "the new replica",
    )


def test_the_prepared_model_is_reused_by_the_next_start(writing: Service, tmp_path: Path) -> None:
    assert "Converting" not in writing.output.read_text()
