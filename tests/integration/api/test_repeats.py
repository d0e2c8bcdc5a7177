"""The same bytes asked again: the second request is one of its own in all that is not in them."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from gateway.api.auth import Caller
from gateway.chat import ChatRequest
from gateway.types import Receipt
from tests.integration.api.conftest import Gateway

BODY = b'{"model":"fast","messages":[{"role":"user","content":"What is a tide gate?"}]}'


async def post(gateway: Gateway, body: bytes = BODY, tenant: str = "acme", **headers: str) -> httpx.Response:
    return await gateway.client.post(
        "/v1/chat/completions",
        content=body,
        headers={"content-type": "application/json", **gateway.auth(tenant), **headers},
    )


def caller(gateway: Gateway, tenant: str) -> Caller:
    return Caller(gateway.auth(tenant)["authorization"], "127.0.0.1", "localhost")


def without_identity(reply: httpx.Response) -> dict[str, Any]:
    body: dict[str, Any] = reply.json()
    receipt = body["tidegate"]["receipt"]
    for fields, names in ((body, ("id", "created")), (receipt, ("id", "created"))):
        for name in names:
            del fields[name]
    for name in [each for each in receipt if each.endswith("_ms")]:
        del receipt[name]
    return body


async def test_each_has_its_own_id_receipt_and_deadline(gateway: Gateway) -> None:
    first, second = await post(gateway), await post(gateway)
    assert first.json()["id"] != second.json()["id"]
    assert without_identity(first) == without_identity(second)
    for reply in (first, second):
        found = await gateway.client.get(f"/v1/receipts/{reply.json()['id']}", headers=gateway.auth())
        assert found.json()["id"] == reply.json()["id"]


async def test_a_deadline_counts_from_when_it_is_said(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from when the same bytes were said first."""
    asked: list[ChatRequest] = []
    run = gateway.services.pipeline.run

    async def seen(request: ChatRequest, sink: Any) -> Receipt:
        asked.append(request)
        return await run(request, sink)

    monkeypatch.setattr(gateway.services.pipeline, "run", seen)
    body = BODY[:-1] + b',"tidegate":{"deadline_ms":9000}}'
    for _ in range(2):
        assert (await post(gateway, body)).status_code == 200
    first, second = asked
    assert second.received > first.received
    assert [round(each.deadline - each.received, 6) for each in asked] == [9.0, 9.0]
    assert first.trail is not None
    assert second.trail not in {None, first.trail}


async def test_a_collection_that_is_gone_is_missed_in_the_same_bytes(gateway: Gateway) -> None:
    made = await gateway.client.post("/v1/vector_stores", json={"name": "papers"}, headers=gateway.auth())
    body = BODY[:-1] + b',"tidegate":{"collections":["papers"]}}'
    assert [(await post(gateway, body)).status_code for _ in range(2)] == [200, 200]
    await gateway.client.delete(f"/v1/vector_stores/{made.json()['id']}", headers=gateway.auth())
    gateway.services.collection_ids.clear()
    reply = await post(gateway, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "collection_not_found")


async def test_what_is_no_json_by_its_head_is_refused_however_often_it_was_said(gateway: Gateway) -> None:
    await post(gateway)
    reply = await post(gateway, **{"content-type": "text/plain"})
    assert reply.status_code == 415


@pytest.mark.parametrize("tenant", ["rival", "operator"])
async def test_another_tenant_is_told_of_its_own_answer(gateway: Gateway, tenant: str) -> None:
    """The scopes that were searched are each caller's."""
    await post(gateway)
    await post(gateway, tenant=tenant)
    asked = [await gateway.services.auth.tenant(caller(gateway, name)) for name in ("acme", tenant)]
    assert [scope.tenant_id for scope in gateway.retriever.scopes] == [each.tenant_id for each in asked]


async def test_a_body_in_pieces_is_the_same_body(gateway: Gateway) -> None:
    """The first pieces have not arrived whole, and a chunked one has no length."""
    await post(gateway)
    host, port = "127.0.0.1", gateway.settings.port
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {gateway.auth()['authorization']}\r\n"
    head += "content-type: application/json\r\n"
    for framing in (f"content-length: {len(BODY)}\r\n\r\n", "transfer-encoding: chunked\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write((head + framing).encode())
        for piece in (BODY[:20], BODY[20:]):
            await writer.drain()
            await asyncio.sleep(0.02)
            is_chunked = "chunked" in framing
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
        writer.write(b"0\r\n\r\n" if "chunked" in framing else b"")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()
