"""A real gateway behind a real Envoy: a reader that takes nothing, and a worker that drains under load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.settings import load_settings
from gateway.shutdown import drain
from gateway.storage import ledger
from gateway.supervise.binaries import BinaryMissing, find_envoy
from tests.integration.api.conftest import Gateway
from tests.integration.supervise.test_edge import Edge, running_edge
from tests.waiting import until

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

CHAT = "/v1/chat/completions"
KIB = 2**10
BODY = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "What?"}]}


@pytest_asyncio.fixture
async def edge(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Edge]:
    """Envoy with the gateway in the place of the first of two workers; the other one is scripted."""

    def with_gateway(config: str) -> str:
        port = next(int(line.split("port_value: ")[1].split(" ")[0]) for line in config.splitlines()
                    if "address: { socket_address: { address: 127.0.0.1" in line and "endpoint:" in line)  # fmt: skip
        return config.replace(f"port_value: {port} ", f"port_value: {gateway.settings.port} ")

    async with running_edge(tmp_path / "edge", with_gateway) as made:
        yield made


def unread_stream(gateway: Gateway, port: int) -> socket.socket:
    """A question whose asker reads nothing of the answer, with as small a buffer as the system gives."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    body = json.dumps(BODY).encode()
    client.sendall(
        f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"authorization: {gateway.auth()['authorization']}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    return client


def num_billed(gateway: Gateway) -> int:
    """Deltas that were taken from the engine: each counts as one token."""
    with gateway.services.database.read() as conn:
        tenant = str(conn.exec_driver_sql("SELECT id FROM tenants WHERE name='acme'").scalar_one())
        return sum(total.completion_tokens for total in ledger.usage_totals(conn, tenant))


@pytest.mark.parametrize("through", ["edge", "worker"], ids=str)
async def test_a_reader_that_takes_nothing_stops_its_engine_early_and_is_cut(
    gateway: Gateway, edge: Edge, through: str
) -> None:
    await edge.workers[1].stop()  # all of it is for the gateway
    size = 8 * KIB
    gateway.fast.texts = ["x" * size] * 2000
    port = edge.settings.port if through == "edge" else gateway.settings.port
    with contextlib.closing(unread_stream(gateway, port)):
        await until(lambda: gateway.fast.started)
        await until(lambda: gateway.fast.cancelled == 1, within_s=10)
        await until(lambda: num_billed(gateway) > 0)
    held = num_billed(gateway) * size
    assert held < (1024 if through == "edge" else 512) * KIB, f"{held // KIB} KiB were produced for it"
    assert gateway.services.metrics.slow_readers.labels("http")._value.get() == 1


async def test_those_who_read_feel_nothing_of_one_who_does_not(gateway: Gateway, edge: Edge) -> None:
    await edge.workers[1].stop()
    gateway.fast.texts = ["x" * 8 * KIB] * 2000
    with contextlib.closing(unread_stream(gateway, edge.settings.port)):
        await until(lambda: gateway.fast.started == 1)
        gateway.fast.texts, gateway.fast.gap_s = [f"w{number} " for number in range(40)], 0.03
        gaps, last = [], time.monotonic()
        async with (
            httpx.AsyncClient(base_url=edge.base_url, headers=gateway.auth()) as client,
            client.stream("POST", CHAT, json=BODY) as answer,
        ):
            async for line in answer.aiter_lines():
                if '"content":' in line:
                    now = time.monotonic()
                    gaps.append(now - last)
                    last = now
    assert len(gaps) == 40
    assert sorted(gaps[1:])[len(gaps) // 2] < 0.06


async def test_no_request_is_lost_while_a_worker_drains(gateway: Gateway, edge: Edge) -> None:
    gateway.services.settings = replace(gateway.settings, drain_s=4.0)
    gateway.fast.texts, gateway.fast.gap_s = ["a ", "b ", "c"], 0.02
    seen: list[int] = []
    ends: list[bool] = []
    stop = asyncio.Event()

    async def ask_again_and_again() -> None:
        async with httpx.AsyncClient(base_url=edge.base_url, headers=gateway.auth(), timeout=10) as client:
            while not stop.is_set():
                async with client.stream("POST", CHAT, json=BODY) as answer:
                    text = (await answer.aread()).decode()
                seen.append(answer.status_code)
                ends.append(text.endswith("data: [DONE]\n\n") or '"port"' in text)

    askers = [asyncio.create_task(ask_again_and_again()) for _ in range(2)]
    await until(lambda: gateway.fast.finished >= 3 and edge.workers[1].requests)
    drained = asyncio.create_task(drain(gateway.services, gateway.server, gateway.door))
    assert await drained
    num_scripted, num_real = len(edge.workers[1].requests), gateway.fast.finished
    await until(lambda: len(edge.workers[1].requests) > num_scripted + 20)
    stop.set()
    await asyncio.gather(*askers)
    assert set(seen) == {200}
    assert all(ends)
    assert gateway.fast.finished == num_real, "after the drain nothing came any more"
    refused = gateway.services.metrics.requests.labels("rejected", "draining", "none")
    assert refused._value.get() == 0
