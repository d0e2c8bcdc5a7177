"""Many files at once, replacement, and progress, over a real socket with a real ingest worker behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from gateway.ingest.worker import IngestWorker
from gateway.storage import corpus
from tests.fakes.ingest import ScriptedEmbedder
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_files_and_stores import store, upload


@contextlib.asynccontextmanager
async def ingesting(gateway: Gateway, embedder: ScriptedEmbedder | None = None) -> AsyncIterator[None]:
    stop, services = asyncio.Event(), gateway.services
    settings = replace(services.settings, ingest_batch=4)
    worker = IngestWorker(services.database, services.blobs, embedder or ScriptedEmbedder(), settings)
    running = asyncio.create_task(worker.run(stop))
    try:
        yield
    finally:
        stop.set()
        await running


async def post(gateway: Gateway, path: str, body: Any, tenant: str = "acme") -> Any:
    return await gateway.client.post(path, json=body, headers=gateway.auth(tenant))


async def get(gateway: Gateway, path: str, tenant: str = "acme") -> Any:
    return await gateway.client.get(path, headers=gateway.auth(tenant))


async def until_settled(gateway: Gateway, path: str) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (found := (await get(gateway, path)).json())["status"] == "in_progress":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return dict(found)


def texts(gateway: Gateway) -> list[str]:
    with gateway.services.database.read() as conn:
        return sorted(chunk.text for chunk in corpus.tail(conn, 0, limit=1000).chunks)


async def test_the_official_sdk_attaches_many_files_and_waits_for_them(gateway: Gateway) -> None:
    store_id = await store(gateway)
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.keys["acme"])
    files = [(f"{number}.txt", f"Text number {number}.".encode()) for number in range(5)]
    async with ingesting(gateway), client:
        batch = await client.vector_stores.file_batches.upload_and_poll(
            store_id, files=files, poll_interval_ms=50
        )
        assert (batch.status, batch.file_counts.completed, batch.file_counts.total) == ("completed", 5, 5)
        listed = await client.vector_stores.file_batches.list_files(batch.id, vector_store_id=store_id)
        assert len(listed.data) == 5
    assert len(texts(gateway)) == 5


async def test_files_of_a_batch_may_have_attributes_of_their_own(gateway: Gateway) -> None:
    store_id = await store(gateway)
    ids = [(await upload(gateway, f"{number}".encode()))["id"] for number in range(2)]
    files = [{"file_id": each, "attributes": {"rank": rank}} for rank, each in enumerate(ids)]
    batch = (await post(gateway, f"/v1/vector_stores/{store_id}/file_batches", {"files": files})).json()
    assert (batch["status"], batch["file_counts"]["in_progress"]) == ("in_progress", 2)
    for rank, each in enumerate(ids):
        shown = (await get(gateway, f"/v1/vector_stores/{store_id}/files/{each}")).json()
        assert shown["attributes"] == {"rank": rank}


async def test_a_batch_that_holds_an_unknown_file_attaches_none(gateway: Gateway) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"x")
    body = {"file_ids": [made["id"], "file-" + "0" * 24]}
    reply = await post(gateway, f"/v1/vector_stores/{store_id}/file_batches", body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_not_found")
    assert (await get(gateway, f"/v1/vector_stores/{store_id}/files")).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"file_ids": []},
        {"file_ids": ["file-1"], "files": [{"file_id": "file-1"}]},
        {"file_ids": ["a"] * 2001},
    ],
    ids=["nothing", "no file", "both", "too many"],
)
async def test_a_batch_of_nothing_or_of_too_much_is_refused(gateway: Gateway, body: Any) -> None:
    reply = await post(gateway, f"/v1/vector_stores/{await store(gateway)}/file_batches", body)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"].endswith(".")


async def test_a_cancelled_batch_stops_what_is_not_searchable_yet(gateway: Gateway) -> None:
    store_id, done = await store(gateway), await upload(gateway, b"Done.", "done.txt")
    path = f"/v1/vector_stores/{store_id}"
    slow = ScriptedEmbedder()
    async with ingesting(gateway, slow):
        batch = (await post(gateway, f"{path}/file_batches", {"file_ids": [done["id"]]})).json()
        await until_settled(gateway, f"{path}/file_batches/{batch['id']}")
        slow.delay_s = 60
        ids = [(await upload(gateway, f"Slow {number}.".encode(), "s.txt"))["id"] for number in range(3)]
        batch = (await post(gateway, f"{path}/file_batches", {"file_ids": ids})).json()
        cancelled = (await post(gateway, f"{path}/file_batches/{batch['id']}/cancel", {})).json()
        assert (cancelled["status"], cancelled["file_counts"]["cancelled"]) == ("cancelled", 3)
    assert texts(gateway) == ["Done."]
    listed = await get(gateway, f"{path}/file_batches/{batch['id']}/files?filter=cancelled")
    assert sorted(row["id"] for row in listed.json()["data"]) == sorted(ids)


@pytest.mark.parametrize(
    ("method", "path"), [("GET", ""), ("POST", "/cancel"), ("GET", "/files")], ids=["get", "cancel", "files"]
)
async def test_a_foreign_batch_is_as_unknown_as_none(gateway: Gateway, method: str, path: str) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"x")
    batches = f"/v1/vector_stores/{store_id}/file_batches"
    batch = (await post(gateway, batches, {"file_ids": [made["id"]]})).json()
    for headers, batch_id in ((gateway.auth("rival"), batch["id"]), (gateway.auth(), "vsfb_none")):
        body = {} if method == "POST" else None
        reply = await gateway.client.request(
            method, f"{batches}/{batch_id}{path}", json=body, headers=headers
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_batch_not_found")
    assert (await get(gateway, f"{batches}/{batch['id']}")).json()["status"] == "in_progress"


# Replacement


async def test_a_new_version_takes_the_place_of_the_old_one_when_it_is_searchable(gateway: Gateway) -> None:
    store_id, old = await store(gateway), await upload(gateway, b"Old words.", "a.txt")
    files = f"/v1/vector_stores/{store_id}/files"
    slow = ScriptedEmbedder()
    async with ingesting(gateway, slow):
        await post(gateway, files, {"file_id": old["id"]})
        await until_settled(gateway, f"{files}/{old['id']}")
        slow.delay_s = 0.3
        new = await upload(gateway, b"New words.", "a.txt")
        body = {"file_id": new["id"], "tidegate": {"replaces": old["id"]}}
        shown = (await post(gateway, files, body)).json()
        assert shown["tidegate"]["replaces"] == old["id"]
        assert texts(gateway) == ["Old words."]
        await until_settled(gateway, f"{files}/{new['id']}")
    assert texts(gateway) == ["New words."]
    assert [row["id"] for row in (await get(gateway, files)).json()["data"]] == [new["id"]]


async def test_a_new_version_that_fails_leaves_the_old_one(gateway: Gateway) -> None:
    store_id, old = await store(gateway), await upload(gateway, b"Old words.", "a.txt")
    files = f"/v1/vector_stores/{store_id}/files"
    async with ingesting(gateway):
        await post(gateway, files, {"file_id": old["id"]})
        await until_settled(gateway, f"{files}/{old['id']}")
        new = await upload(gateway, b"", "a.txt")
        await post(gateway, files, {"file_id": new["id"], "tidegate": {"replaces": old["id"]}})
        failed = await until_settled(gateway, f"{files}/{new['id']}")
    assert (failed["status"], failed["last_error"]["code"]) == ("failed", "empty_file")
    assert texts(gateway) == ["Old words."]


async def test_what_is_not_in_the_store_cannot_be_replaced(gateway: Gateway) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"x")
    foreign = await upload(gateway, b"y", tenant="rival")
    for other in (foreign["id"], "file-none"):
        body = {"file_id": made["id"], "tidegate": {"replaces": other}}
        reply = await post(gateway, f"/v1/vector_stores/{store_id}/files", body)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "file_not_found")
        assert reply.json()["error"]["param"] == "replaces"


# Progress


async def test_a_store_and_its_batch_tell_how_many_chunks_are_done(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ingest.worker.HEARTBEAT_S", 0.02)
    store_id = await store(gateway)
    ids = [
        (await upload(gateway, f"Words of {number}. ".encode() * 2000, f"{number}.txt"))["id"]
        for number in range(2)
    ]
    slow = ScriptedEmbedder(delay_s=0.1)
    path = f"/v1/vector_stores/{store_id}"
    async with ingesting(gateway, slow):
        batch = (await post(gateway, f"{path}/file_batches", {"file_ids": ids})).json()
        seen = []
        async with asyncio.timeout(20):
            while (found := (await get(gateway, path)).json())["status"] == "in_progress":
                seen.append((found["tidegate"]["chunks_done"], found["tidegate"]["num_chunks"]))
                await asyncio.sleep(0.02)
        counted = (await get(gateway, f"{path}/file_batches/{batch['id']}")).json()["tidegate"]
    assert any(0 < done < total for done, total in seen)
    assert seen == sorted(seen)
    told = found["tidegate"]
    assert told["chunks_done"] == told["num_chunks"] == len(texts(gateway)) > 20
    assert counted == {"num_chunks": told["num_chunks"], "chunks_done": told["num_chunks"]}
