"""Files and vector stores over a real socket: uploads stream to disk, tenants never meet."""

from __future__ import annotations

import hashlib

import pytest

from tests.integration.api.conftest import Gateway


async def upload(
    gateway: Gateway, data: bytes, name: str = "guide.md", tenant: str = "acme"
) -> dict[str, object]:
    reply = await gateway.client.post(
        "/v1/files",
        files={"file": (name, data)},
        data={"purpose": "assistants"},
        headers=gateway.auth(tenant),
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


async def store(gateway: Gateway, tenant: str = "acme") -> str:
    reply = await gateway.client.post(
        "/v1/vector_stores", json={"name": "docs"}, headers=gateway.auth(tenant)
    )
    assert reply.status_code == 200, reply.text
    return str(reply.json()["id"])


async def test_a_file_comes_back_as_it_went_in(gateway: Gateway) -> None:
    data = bytes(range(256)) * 500
    made = await upload(gateway, data)
    assert made["bytes"] == len(data)
    assert made["tidegate"] == {"sha256": hashlib.sha256(data).hexdigest()}
    content = await gateway.client.get(f"/v1/files/{made['id']}/content", headers=gateway.auth())
    assert content.content == data
    assert content.headers["content-disposition"] == "attachment"


async def test_deleting_a_file_takes_its_bytes_away(gateway: Gateway) -> None:
    made = await upload(gateway, b"hello")
    gone = await gateway.client.delete(f"/v1/files/{made['id']}", headers=gateway.auth())
    assert gone.json() == {"id": made["id"], "object": "file", "deleted": True}
    assert (await gateway.client.get(f"/v1/files/{made['id']}", headers=gateway.auth())).status_code == 404
    assert not [path for path in gateway.settings.files_dir.rglob("*") if path.is_file()]


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing(gateway: Gateway) -> None:
    reply = await gateway.client.post(
        "/v1/files",
        files={"file": ("big.txt", b"x" * 300_000)},
        data={"purpose": "assistants"},
        headers=gateway.auth(),
    )
    assert reply.status_code == 413
    assert "TIDEGATE_MAX_FILE_BYTES" in reply.json()["error"]["message"]
    assert not [path for path in gateway.settings.files_dir.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/abs/x.md", "abs/x.md"),
        ("docs/a.md", "docs/a.md"),
        ("..", "unnamed"),
    ],
    ids=str,
)
async def test_a_file_name_is_shown_but_never_a_path(gateway: Gateway, name: str, shown: str) -> None:
    assert (await upload(gateway, b"x", name))["filename"] == shown


@pytest.mark.parametrize(
    ("content_type", "content", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"garbage", 400),
        (
            "multipart/form-data; boundary=b",
            b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nx",
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="url"\r\n\r\nx\r\n--b--\r\n',
            400,
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--b--\r\n',
            400,
        ),
    ],
    ids=["json", "no-boundary", "garbage", "cut-short", "unknown-field", "no-file"],
)
async def test_a_malformed_upload_is_told_what_is_wrong(
    gateway: Gateway, content_type: str, content: bytes, status: int
) -> None:
    headers = {**gateway.auth(), "content-type": content_type}
    reply = await gateway.client.post("/v1/files", content=content, headers=headers)
    assert reply.status_code == status, reply.text
    assert reply.json()["error"]["message"].endswith(".")
    assert not [path for path in gateway.settings.files_dir.rglob("*") if path.is_file()]


async def test_a_purpose_is_needed(gateway: Gateway) -> None:
    reply = await gateway.client.post("/v1/files", files={"file": ("a", b"x")}, headers=gateway.auth())
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "purpose"


async def test_a_store_lives_its_life(gateway: Gateway) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"# Hello")
    attached = await gateway.client.post(
        f"/v1/vector_stores/{store_id}/files",
        json={"file_id": made["id"], "attributes": {"lang": "en", "rank": 2}},
        headers=gateway.auth(),
    )
    assert attached.json()["status"] == "in_progress"
    assert attached.json()["attributes"] == {"lang": "en", "rank": 2}
    shown = (await gateway.client.get(f"/v1/vector_stores/{store_id}", headers=gateway.auth())).json()
    assert shown["file_counts"] == {"in_progress": 1, "completed": 0, "failed": 0, "cancelled": 0, "total": 1}
    renamed = await gateway.client.post(
        f"/v1/vector_stores/{store_id}", json={"name": "manuals"}, headers=gateway.auth()
    )
    assert renamed.json()["name"] == "manuals"
    listed = await gateway.client.get(f"/v1/vector_stores/{store_id}/files", headers=gateway.auth())
    assert [row["id"] for row in listed.json()["data"]] == [made["id"]]
    detached = await gateway.client.delete(
        f"/v1/vector_stores/{store_id}/files/{made['id']}", headers=gateway.auth()
    )
    assert detached.json()["deleted"] is True
    gone = await gateway.client.delete(f"/v1/vector_stores/{store_id}", headers=gateway.auth())
    assert gone.json()["deleted"] is True
    assert (
        await gateway.client.get(f"/v1/vector_stores/{store_id}", headers=gateway.auth())
    ).status_code == 404


FOREIGN = [
    ("GET", "/v1/files/{file}", None),
    ("GET", "/v1/files/{file}/content", None),
    ("DELETE", "/v1/files/{file}", None),
    ("GET", "/v1/vector_stores/{store}", None),
    ("POST", "/v1/vector_stores/{store}", {"name": "mine"}),
    ("DELETE", "/v1/vector_stores/{store}", None),
    ("POST", "/v1/vector_stores/{store}/search", {"query": "x"}),
    ("POST", "/v1/vector_stores/{store}/files", {"file_id": "{file}"}),
    ("GET", "/v1/vector_stores/{store}/files", None),
    ("GET", "/v1/vector_stores/{store}/files/{file}", None),
    ("POST", "/v1/vector_stores/{store}/files/{file}", {"attributes": {"a": "b"}}),
    ("DELETE", "/v1/vector_stores/{store}/files/{file}", None),
    ("POST", "/v1/vector_stores", {"name": "mine", "file_ids": ["{file}"]}),
    (
        "POST",
        "/v1/chat/completions",
        {
            "model": "fast",
            "messages": [{"role": "user", "content": "x"}],
            "tidegate": {"collections": ["{store}"]},
        },
    ),
]


@pytest.mark.parametrize(("method", "path", "body"), FOREIGN, ids=[f"{m} {p}" for m, p, _ in FOREIGN])
async def test_a_foreign_id_looks_exactly_like_an_unknown_one(
    gateway: Gateway, method: str, path: str, body: object
) -> None:
    store_id, made = await store(gateway), await upload(gateway, b"# Secret")
    await gateway.client.post(
        f"/v1/vector_stores/{store_id}/files", json={"file_id": made["id"]}, headers=gateway.auth()
    )
    before = gateway.retriever.started

    async def answer(store_id: str, file_id: str) -> tuple[int, str]:
        text = str(body).replace("{store}", store_id).replace("{file}", file_id)
        filled = None if body is None else eval(text)
        reply = await gateway.client.request(
            method, path.format(store=store_id, file=file_id), json=filled, headers=gateway.auth("rival")
        )
        return reply.status_code, reply.text.replace(store_id, "ID").replace(file_id, "ID")

    foreign = await answer(store_id, str(made["id"]))
    unknown = await answer("vs_" + "0" * 24, "file-" + "0" * 24)
    assert foreign == unknown
    assert foreign[0] == 404
    assert gateway.retriever.started == before
    assert (await gateway.client.get(f"/v1/files/{made['id']}", headers=gateway.auth())).status_code == 200


async def test_listings_show_only_ones_own(gateway: Gateway) -> None:
    await store(gateway)
    await upload(gateway, b"x")
    for path in ("/v1/files", "/v1/vector_stores", "/v1/usage"):
        assert (await gateway.client.get(path, headers=gateway.auth("rival"))).json()["data"] == [], path


async def test_listings_page_by_cursor(gateway: Gateway) -> None:
    ids = [await store(gateway) for _ in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        query = f"?limit=2&order=asc{after}"
        reply = (await gateway.client.get(f"/v1/vector_stores{query}", headers=gateway.auth())).json()
        seen += [row["id"] for row in reply["data"]]
        if not reply["has_more"]:
            break
        after = f"&after={reply['last_id']}"
    assert sorted(seen) == sorted(ids)
    assert len(seen) == 5
