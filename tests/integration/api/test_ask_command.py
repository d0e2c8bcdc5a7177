"""`tidegate ask` and `tidegate ask --grpc` against the same gateway: same output, same sentences, same exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.tiering.ladder import Orders, Step
from tests.integration.api.conftest import Gateway
from tests.waiting import until

ROOT = Path(__file__).parents[3]
LIMIT_S = 30


async def start(url: str, key: str, *arguments: str) -> asyncio.subprocess.Process:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "TG_"))}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "ask", "--url", url, "--key", key, *arguments),
        env=kept | {"PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(url: str, key: str, *arguments: str) -> tuple[int | None, str, str]:
    process = await start(url, key, *arguments)
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    return process.returncode, out.decode(), err.decode().replace(url, "URL")


async def both(
    gateway: Gateway, *arguments: str, key: str = ""
) -> tuple[tuple[int | None, str, str], tuple[int | None, str, str]]:
    """What the command does over HTTP and over gRPC."""
    key = key or gateway.keys["acme"]
    return (
        await run(gateway.url, key, *arguments),
        await run(f"http://127.0.0.1:{gateway.grpc_port}", key, "--grpc", *arguments),
    )


async def test_answer_and_sources_are_the_same(gateway: Gateway) -> None:
    http, over_grpc = await both(gateway, "-m", "fast", "What is a tide gate?")
    assert http == over_grpc
    assert http[0] == 0
    assert "Sources\n[1] doc1.md › Guide  0.80" in http[1]


async def test_json_is_the_same_but_for_ids_and_times(gateway: Gateway) -> None:
    http, over_grpc = await both(gateway, "-m", "fast", "--json", "What is a tide gate?")
    answers = [json.loads(out) for _, out, _ in (http, over_grpc)]
    for answer in answers:
        receipt = answer["receipt"]
        assert list(receipt) == list(answers[0]["receipt"])
        for name in ("id", "created", *(name for name in receipt if name.endswith("_ms"))):
            receipt[name] = None
    assert answers[0] == answers[1]


async def test_what_was_given_up_under_load_is_told_the_same(gateway: Gateway) -> None:
    gateway.services.pipeline.ladders.orders = Orders(pinned=[Step.NO_RERANK, Step.SHORTER_ANSWERS])
    http, over_grpc = await both(gateway, "-m", "fast", "What is a tide gate?")
    assert http == over_grpc
    assert http[2] == "Shortened under load: no_rerank, shorter_answers.\n"
    assert "Shortened" not in http[1]


async def test_a_conversation_goes_on_the_same(gateway: Gateway) -> None:
    made = await gateway.client.post("/v1/conversations", json={}, headers=gateway.auth())
    options = ("-m", "fast", "--conversation", made.json()["id"])
    assert len({*await both(gateway, *options, "What is a tide gate?")}) == 1
    assert len({*await both(gateway, *options, "How does it work?")}) == 1
    assert gateway.retriever.texts[2:] == ["How does a tide gate work?"] * 2


def _away(gateway: Gateway) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The models are away.", retry_after_s=2.4)


def _breaks_off(gateway: Gateway) -> None:
    gateway.fast.fail_with, gateway.fast.fail_at = UpstreamUnavailable("The models are away."), 1


def _nothing(gateway: Gateway) -> None:
    """The service is well."""


@pytest.mark.parametrize(
    ("prepare", "arguments", "sentence"),
    [
        (_nothing, ("-m", "nope"), "The model 'nope' does not exist; choose from: auto, fast, deep."),
        (_nothing, ("--key", "tg-wrong"), "URL wants a valid key: give one with --key or TG_API_KEY."),
        (_away, (), "The models are away. Try again in 3 s."),
        (_breaks_off, (), "The models are away."),
    ],
    ids=["model", "key", "before", "after"],
)
async def test_errors_have_the_same_sentence_and_exit_code(
    gateway: Gateway, prepare: Callable[[Gateway], None], arguments: tuple[str, ...], sentence: str
) -> None:
    prepare(gateway)
    http, over_grpc = await both(gateway, "What is a tide gate?", *arguments)
    assert http == over_grpc
    assert (http[0], http[2]) == (1, f"tidegate: {sentence}\n")


async def test_nothing_listening_is_told_the_same() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        http, over_grpc = [await run(url, "tg-x", *options, "hi") for options in ((), ("--grpc",))]
    assert http == over_grpc
    assert http[0] == 3


async def test_a_server_that_speaks_no_grpc_is_told_in_one_sentence(gateway: Gateway) -> None:
    code, out, err = await run(gateway.url, "tg-x", "--grpc", "hi")
    assert (code, out) in {(1, ""), (3, "")}
    assert err.startswith("tidegate: ")
    assert err.count("\n") == 1


async def test_stopping_the_command_cancels_the_work(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(1000)], 0.01
    url = f"http://127.0.0.1:{gateway.grpc_port}"
    process: Any = await start(url, gateway.keys["acme"], "--grpc", "-m", "fast", "x")
    await asyncio.wait_for(process.stdout.readuntil(b"word3"), LIMIT_S)
    process.send_signal(2)
    await until(lambda: gateway.fast.cancelled)
    await asyncio.wait_for(process.communicate(), LIMIT_S)
    assert process.returncode == 130
