"""Which model makes a store's vectors, and changing it, over a real socket."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.types import DEFAULT_EMBEDDER
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_file_batches import ingesting, until_settled
from tests.integration.api.test_files_and_stores import store, upload


@pytest.fixture(autouse=True)
def another_embedder(gateway: Gateway) -> None:
    gateway.services.settings = replace(gateway.services.settings, embedders="tiny=/models/tiny")


async def change(gateway: Gateway, store_id: str, embedder: str, tenant: str = "acme") -> Any:
    body = {"tidegate": {"embedder": embedder}}
    path = f"/v1/vector_stores/{store_id}"
    return await gateway.client.post(path, json=body, headers=gateway.auth(tenant))


async def test_a_store_says_who_makes_its_vectors(gateway: Gateway) -> None:
    bodies = ({"name": "a"}, {"name": "b", "tidegate": {"embedder": "tiny"}})
    made = [
        (await gateway.client.post("/v1/vector_stores", json=body, headers=gateway.auth())).json()
        for body in bodies
    ]
    assert [each["tidegate"]["embedder"] for each in made] == [DEFAULT_EMBEDDER, "tiny"]


async def test_a_change_is_begun_shown_and_called_off(gateway: Gateway) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"Some words.", "a.txt")
    path = f"/v1/vector_stores/{store_id}"
    async with ingesting(gateway):
        await gateway.client.post(f"{path}/files", json={"file_id": made["id"]}, headers=gateway.auth())
        await until_settled(gateway, f"{path}/files/{made['id']}")
    told = (await change(gateway, store_id, "tiny")).json()["tidegate"]
    assert (told["embedder"], told["next_embedder"]) == (DEFAULT_EMBEDDER, "tiny")
    assert told["reembedding"] == {"num_done": 0, "num_chunks": 1}
    told = (await change(gateway, store_id, DEFAULT_EMBEDDER)).json()["tidegate"]
    assert (told["embedder"], told["next_embedder"], told["reembedding"]) == (DEFAULT_EMBEDDER, None, None)


async def test_an_unknown_embedder_is_told_with_those_there_are(gateway: Gateway) -> None:
    store_id = await store(gateway)
    created = await gateway.client.post(
        "/v1/vector_stores", json={"tidegate": {"embedder": "huge"}}, headers=gateway.auth()
    )
    for reply in (created, await change(gateway, store_id, "huge")):
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "embedder_not_found")
        assert error["param"] == "tidegate.embedder"
        assert f"{DEFAULT_EMBEDDER}, tiny" in error["message"]


async def test_another_tenants_store_cannot_be_changed(gateway: Gateway) -> None:
    store_id = await store(gateway)
    foreign, unknown = [await change(gateway, each, "tiny", "rival") for each in (store_id, "vs_none")]
    assert foreign.status_code == unknown.status_code == 404
    assert (await change(gateway, store_id, DEFAULT_EMBEDDER)).json()["tidegate"]["next_embedder"] is None
