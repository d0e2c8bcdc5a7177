"""The stored text of a file, whole and in parts: what a citation is opened with."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import numpy as np
import pytest
import sqlalchemy as sa

from gateway.storage import catalog, corpus
from gateway.storage.schema import files
from gateway.tensors import EMBEDDING_DIM
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_files_and_stores import store, upload

TEXT = "Grüße.\nThe gate 🌊 closes at high water. Nobody opens it by hand.\n"


async def read_file(gateway: Gateway, text: str = TEXT, page_starts: Sequence[int] = ()) -> str:
    """A file as the ingest worker leaves it: its text, and two chunks on two pages."""
    file_id, store_id = str((await upload(gateway, b"bytes"))["id"]), await store(gateway)
    with gateway.services.database.read() as conn:
        tenant = str(conn.execute(sa.select(files.c.tenant_id).where(files.c.id == file_id)).scalar_one())
    gateway.services.blobs.write_text(tenant, file_id, text, page_starts)
    with gateway.services.database.write() as conn:
        catalog.attach_file(conn, tenant, store_id, file_id, {})
        item = corpus.claim(conn, lease_s=60, now=0.5)
        assert item is not None
        chunks = [
            corpus.NewChunk(0, 6, text[:6], "Intro", 1),
            corpus.NewChunk(7, len(text), text[7:], "Intro > Gate", 2),
        ]
        vectors = np.eye(2, EMBEDDING_DIM, dtype=np.float32)
        assert corpus.publish(conn, item, chunks, vectors) is not None
    return file_id


async def content(gateway: Gateway, file_id: str, query: str, tenant: str = "acme") -> httpx.Response:
    return await gateway.client.get(f"/v1/files/{file_id}/content?{query}", headers=gateway.auth(tenant))


async def test_the_bytes_stay_what_was_uploaded(gateway: Gateway) -> None:
    assert (await content(gateway, await read_file(gateway), "")).content == b"bytes"


async def test_the_whole_text_comes_as_text_that_nothing_in_it_can_run(gateway: Gateway) -> None:
    reply = await content(gateway, await read_file(gateway, "<script>x</script>" + TEXT), "format=text")
    assert reply.text == "<script>x</script>" + TEXT
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("start=7&end=41", 7, 41),
        ("start=16", 16, None),
        ("end=6", 0, 6),
        ("start=0&end=0", 0, 0),
        (f"start={len(TEXT)}&end={len(TEXT)}", len(TEXT), None),
    ],
    ids=["a sentence", "to the end", "from the start", "nothing", "at the end"],
)
async def test_a_part_is_counted_in_characters(
    gateway: Gateway, query: str, start: int, end: int | None
) -> None:
    reply = await content(gateway, await read_file(gateway), f"format=text&{query}")
    assert (reply.status_code, reply.text) == (200, TEXT[start:end])


async def test_a_citation_opens_with_what_stands_around_it(gateway: Gateway) -> None:
    file_id = await read_file(gateway)
    start, end = TEXT.index("The gate"), TEXT.index(" Nobody")
    reply = await content(gateway, file_id, f"format=json&start={start}&end={end}&context=8")
    assert reply.json() == {
        "object": "file.text", "file_id": file_id, "filename": "guide.md", "num_chars": len(TEXT),
        "start": start, "end": end, "page": 2, "heading": "Intro > Gate",
        "before": TEXT[:7], "text": "The gate 🌊 closes at high water.", "after": " Nobody ",
    }  # fmt: skip


async def test_the_page_is_that_of_the_citation_not_of_the_chunk_around_it(gateway: Gateway) -> None:
    second, third = TEXT.index("The gate"), TEXT.index("Nobody")
    file_id = await read_file(gateway, page_starts=[0, second, third])
    for start, page in ((0, 1), (second, 2), (third - 1, 2), (third, 3), (third + 5, 3)):
        reply = await content(gateway, file_id, f"format=json&start={start}&end={start + 1}")
        assert (start, reply.json()["page"]) == (start, page)


async def test_a_text_of_many_blocks_is_cut_at_the_right_character(gateway: Gateway) -> None:
    text = "é🌊x" * 600_000  # over four blocks of bytes; a border falls inside a letter
    file_id = await read_file(gateway, text)
    reply = await content(gateway, file_id, "format=json&start=1000001&end=1000011&context=3")
    found = reply.json()
    assert (found["before"], found["text"], found["after"]) == (
        text[999998:1000001],
        text[1000001:1000011],
        text[1000011:1000014],
    )
    assert found["num_chars"] == len(text)


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("format=html", "format", "bytes, text, json"),
        ("start=3", "start", "needs format"),
        ("format=text&context=3", "context", "needs format=json"),
        ("format=text&start=-1", "start", "whole number"),
        ("format=text&start=1.5", "start", "whole number"),
        ("format=text&end=x", "end", "whole number"),
        ("format=text&start=" + "9" * 50, "start", "whole number"),
        ("format=text&start=9&end=8", "end", "before start"),
        ("format=text&start=900", "start", f"has {len(TEXT)} characters"),
        ("format=text&start=0&end=900", "end", f"has {len(TEXT)} characters"),
        ("format=json&context=30000", "context", "at most 20000"),
    ],
)  # fmt: skip
async def test_a_part_that_cannot_be_is_told_by_its_bound(
    gateway: Gateway, query: str, param: str, words: str
) -> None:
    reply = await content(gateway, await read_file(gateway), query)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert words in error["message"]


@pytest.mark.parametrize("query", ["start=0", "start=5&end=1500000"], ids=["to the end", "named"])
async def test_a_part_may_not_be_everything_of_a_large_text(gateway: Gateway, query: str) -> None:
    file_id = await read_file(gateway, "x" * 1_500_000)
    reply = await content(gateway, file_id, f"format=text&{query}")
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "out_of_range")
    assert "1000000" in reply.json()["error"]["message"]


@pytest.mark.parametrize("query", ["format=text", "format=text&start=0", "format=json"])
async def test_a_file_that_was_not_read_yet_says_so(gateway: Gateway, query: str) -> None:
    made = await upload(gateway, b"x")
    reply = await content(gateway, str(made["id"]), query)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "text_not_ready")


@pytest.mark.parametrize("query", ["format=text", "format=json&start=0&end=3"])
async def test_another_tenants_text_is_as_unknown_as_no_file(gateway: Gateway, query: str) -> None:
    foreign = await content(gateway, await read_file(gateway), query, tenant="rival")
    unknown = await content(gateway, "file-" + "0" * 24, query, tenant="rival")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"]["code"] == unknown.json()["error"]["code"]
