"""A client that leaves, wherever its request stands: the work stops and the outcome is on record."""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.storage import ledger
from tests.integration.api.conftest import Gateway
from tests.waiting import until

STOP_WITHIN_S = 2.0  # what is stopped would last ten and more
MESSAGES = [{"role": "user", "content": "x"}]


async def open_request(
    gateway: Gateway, *, stream: bool, padding: int = 0
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A question on a raw socket, so that leaving is a closed connection and nothing else."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    body = json.dumps({"model": "fast", "stream": stream, "messages": MESSAGES}).encode() + b" " * padding
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {gateway.keys['acme']}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


def recorded(gateway: Gateway) -> list[dict[str, object]]:
    with gateway.services.database.read() as conn:
        rows = conn.exec_driver_sql("SELECT body FROM receipts").scalars().all()
    return [json.loads(row) for row in rows]


async def the_receipt(gateway: Gateway) -> dict[str, object]:
    await until(lambda: recorded(gateway))
    return recorded(gateway)[0]


@pytest.mark.parametrize("padding", [60_000, 100_000, 200_000, 1_000_000], ids=str)
async def test_leaving_is_noticed_after_a_body_of_any_size(gateway: Gateway, padding: int) -> None:
    gateway.retriever.delay_s = 30
    _, writer = await open_request(gateway, stream=False, padding=padding)
    await until(lambda: gateway.retriever.started)
    writer.close()
    assert await until(lambda: gateway.retriever.cancelled) < STOP_WITHIN_S


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_while_retrieving_stops_the_retrieval(gateway: Gateway, stream: bool) -> None:
    gateway.retriever.delay_s = 30
    _, writer = await open_request(gateway, stream=stream)
    await until(lambda: gateway.retriever.started)
    writer.close()
    assert await until(lambda: gateway.retriever.cancelled) < STOP_WITHIN_S
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"], receipt["stage"]) == (
        "evicted",
        "client_gone",
        "retrieving",
    )


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_while_queued_gives_the_place_up(gateway: Gateway, stream: bool) -> None:
    permits = [await gateway.queue.acquire(band="interactive", deadline=float("inf")) for _ in range(2)]
    _, writer = await open_request(gateway, stream=stream)
    await until(lambda: gateway.queue.num_waiting == 1)
    writer.close()
    assert await until(lambda: gateway.queue.num_waiting == 0) < STOP_WITHIN_S
    for permit in permits:
        permit.release()
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"], receipt["stage"]) == ("evicted", "client_gone", "queued")
    assert gateway.fast.started == 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_before_the_first_token_frees_the_slot(gateway: Gateway, stream: bool) -> None:
    gateway.fast.delay_s = 30
    _, writer = await open_request(gateway, stream=stream)
    await until(lambda: gateway.fast.started)
    assert gateway.queue.inflight == 1
    writer.close()
    assert await until(lambda: gateway.fast.cancelled and gateway.queue.inflight == 0) < STOP_WITHIN_S
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"], receipt["stage"]) == (
        "evicted",
        "client_gone",
        "generating",
    )


async def test_leaving_mid_stream_stops_the_engine_and_bills_what_was_sent(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = [f"word{n} " for n in range(1000)], 0.01
    reader, writer = await open_request(gateway, stream=True)
    await reader.readuntil(b"word3")
    writer.close()
    assert await until(lambda: gateway.fast.cancelled and gateway.queue.inflight == 0) < STOP_WITHIN_S
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"]) == ("evicted", "client_gone")
    with gateway.services.database.read() as conn:
        totals = ledger.usage_totals(conn, _tenant_id(gateway))
    assert 4 <= totals[0].completion_tokens < 1000


async def test_a_reader_that_takes_nothing_is_cut_and_its_slot_comes_back(gateway: Gateway) -> None:
    gateway.fast.texts = ["x" * 100_000] * 200
    _, writer = await open_request(gateway, stream=True)
    await until(lambda: gateway.fast.started)
    await until(lambda: gateway.queue.inflight == 0, within_s=10)
    receipt = await the_receipt(gateway)
    assert (receipt["outcome"], receipt["cause"]) == ("evicted", "client_gone")
    writer.close()


def _tenant_id(gateway: Gateway) -> str:
    with gateway.services.database.read() as conn:
        return str(conn.exec_driver_sql("SELECT id FROM tenants WHERE name='acme'").scalar_one())
