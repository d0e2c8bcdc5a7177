"""The official openai SDK, unchanged, drives every route through Envoy to the real parts."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from tests.e2e.conftest import wait_for

GUIDE = b"""# Harbour guide

## Opening hours
The harbour office opens at 07:30 every weekday and closes at 18:00.

## Berths
Visiting yachts pay 42 euros for each night at the north pier.
The south pier is reserved for fishing boats of the cooperative.
"""


@pytest.fixture(scope="module")
def client(service: Any) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.base_url}/v1", api_key=service.api_key, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def store(client: openai.OpenAI) -> Iterator[str]:
    """A vector store with the harbour guide, indexed."""
    made = client.vector_stores.create(name="harbour")
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=made.id, file=("harbour.md", io.BytesIO(GUIDE)), poll_interval_ms=50
    )
    assert file.status == "completed", file.last_error
    # Every `search` model follows the database within a moment (ARCHITECTURE: life of a document), not at once.
    wait_for(lambda: client.vector_stores.search(made.id, query="pier").data, 10, "the guide in the index")
    yield made.id
    client.vector_stores.delete(made.id)


def ask(client: openai.OpenAI, question: str, collection: str, **extra: Any) -> Any:
    return client.chat.completions.create(
        model=extra.pop("model", "fast"),
        messages=[{"role": "user", "content": question}],
        extra_body={"tidegate": {"collections": [collection], **extra.pop("tidegate", {})}},
        **extra,
    )


@pytest.mark.parametrize("model", ["fast", "deep", "auto"])
def test_an_answer_cites_the_sentence_that_holds_it(client: openai.OpenAI, store: str, model: str) -> None:
    reply = ask(client, "What does a night at the north pier cost?", store, model=model)
    message = reply.choices[0].message
    assert "42 euros" in message.content
    quote = message.annotations[0].file_citation
    assert "42 euros" in quote["quote"]
    assert quote["filename"] == "harbour.md"
    assert f"[{quote['passage']}]" in message.content
    assert GUIDE.decode()[quote["start"] : quote["end"]] == quote["quote"]
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens > 0


def test_a_follow_up_in_a_kept_conversation_finds_what_it_means(client: openai.OpenAI, store: str) -> None:
    talk = client.conversations.create()
    ask(client, "When does the harbour office open?", store, tidegate={"conversation": talk.id})
    reply = ask(client, "And when does it close?", store, store=True, tidegate={"conversation": talk.id})
    assert reply.tidegate["receipt"]["question"] == "when does the harbour office close?"
    assert "18:00" in reply.choices[0].message.content
    items = list(client.conversations.items.list(talk.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"] * 2
    assert client.chat.completions.retrieve(reply.id).choices == reply.choices
    client.chat.completions.delete(reply.id)
    assert client.conversations.delete(talk.id).deleted


@pytest.mark.parametrize("model", ["fast", "deep"])
def test_a_question_the_documents_do_not_answer_gets_an_honest_no(
    client: openai.OpenAI, store: str, model: str
) -> None:
    reply = ask(client, "Which composer wrote the opera Tosca?", store, model=model)
    assert not reply.choices[0].message.annotations
    assert "[1]" not in reply.choices[0].message.content
    assert reply.tidegate["receipt"]["finish_reason"] == "no_answer"


def test_a_stream_brings_deltas_annotations_usage_and_the_receipt(client: openai.OpenAI, store: str) -> None:
    stream = ask(
        client, "When does the office open?", store, stream=True, stream_options={"include_usage": True}
    )
    text, notes, usage, receipt = "", [], None, None
    for chunk in stream:
        if chunk.choices:
            delta = chunk.choices[0].delta
            text += delta.content or ""
            notes += getattr(delta, "annotations", None) or []
        usage = chunk.usage or usage
        receipt = (getattr(chunk, "tidegate", None) or {}).get("receipt", receipt)
    assert "07:30" in text
    assert notes
    assert usage is not None
    assert receipt["outcome"] == "completed"
    assert all(receipt[name] >= 0 for name in ("embed_ms", "search_ms", "queue_ms", "ttft_ms", "total_ms"))


def test_the_receipt_is_there_at_once(client: openai.OpenAI, store: str) -> None:
    reply = ask(client, "When does the office open?", store)
    found = client.get(f"/receipts/{reply.id}", cast_to=httpx.Response).json()
    assert found == reply.tidegate["receipt"]
    assert found["passages"][0]["score"] > 0


async def test_the_async_client_asks_many_at_once(service: Any, store: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{service.base_url}/v1", api_key=service.api_key, max_retries=0
    ) as client:
        replies = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="fast",
                    messages=[{"role": "user", "content": "What does a night at the north pier cost?"}],
                    extra_body={"tidegate": {"collections": [store]}},
                )
                for _ in range(32)
            )
        )
    assert all("42 euros" in (reply.choices[0].message.content or "") for reply in replies)
    assert len({reply.id for reply in replies}) == 32


@pytest.mark.parametrize("encoding", ["float", "base64", None], ids=str)
def test_embeddings_are_unit_vectors_near_for_near_texts(client: openai.OpenAI, encoding: Any) -> None:
    extra = {} if encoding is None else {"encoding_format": encoding}
    texts = ["A boat in the harbour.", "A ship lies at the pier.", "Sourdough needs flour."]
    reply = client.embeddings.create(model="all-MiniLM-L6-v2", input=texts, **extra)
    rows: Any = [row.embedding for row in reply.data]
    if encoding == "base64":
        import base64

        rows = [np.frombuffer(base64.b64decode(row), np.float32) for row in rows]
    vectors = np.asarray(rows)
    assert vectors.shape == (3, 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2
    assert reply.usage.prompt_tokens > 10


def test_models_list_the_tiers_and_the_router(client: openai.OpenAI) -> None:
    assert {"auto", "fast", "deep", "all-MiniLM-L6-v2"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("fast").owned_by == "tidegate"


def test_files_live_their_life(client: openai.OpenAI) -> None:
    made = client.files.create(file=("notes.txt", b"hello"), purpose="assistants")
    assert client.files.wait_for_processing(made.id, poll_interval=0.05).status == "processed"
    assert client.files.retrieve(made.id).filename == "notes.txt"
    assert made.id in {file.id for file in client.files.list()}
    assert client.files.content(made.id).read() == b"hello"
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_vector_stores_live_their_life(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="scratch", metadata={"team": "docs"})
    assert client.vector_stores.retrieve(made.id).metadata == {"team": "docs"}
    assert client.vector_stores.update(made.id, name="renamed").name == "renamed"
    assert made.id in {store.id for store in client.vector_stores.list()}
    file = client.files.create(
        file=("a.md", b"# A\n\nThe lighthouse is 31 metres tall."), purpose="assistants"
    )
    attached = client.vector_stores.files.create_and_poll(
        file.id, vector_store_id=made.id, poll_interval_ms=50
    )
    assert attached.status == "completed"
    updated = client.vector_stores.files.update(file.id, vector_store_id=made.id, attributes={"lang": "en"})
    assert updated.attributes == {"lang": "en"}
    assert [row.id for row in client.vector_stores.files.list(made.id)] == [file.id]
    hits = found_soon(client, made.id, "How tall is the lighthouse?")
    assert hits[0].filename == "a.md"
    assert "31 metres" in hits[0].content[0].text
    assert client.vector_stores.files.delete(file.id, vector_store_id=made.id).deleted
    assert client.vector_stores.delete(made.id).deleted


def found_soon(client: openai.OpenAI, store_id: str, query: str) -> list[Any]:
    done = time.monotonic()
    while not (hits := client.vector_stores.search(store_id, query=query).data):
        assert time.monotonic() - done < 2.0
    return hits


def test_a_fresh_document_is_found_soon_after_it_is_done(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="fresh")
    file = client.files.create(file=("f.txt", b"The ferry to Oarsund leaves at noon."), purpose="assistants")
    client.vector_stores.files.create_and_poll(file.id, vector_store_id=made.id, poll_interval_ms=20)
    assert found_soon(client, made.id, "ferry to Oarsund")
    client.vector_stores.delete(made.id)


def test_a_deleted_document_is_no_longer_found(client: openai.OpenAI) -> None:
    made = client.vector_stores.create(name="doomed")
    file = client.files.create(
        file=("f.txt", b"The password of the gate is swordfish."), purpose="assistants"
    )
    client.vector_stores.files.create_and_poll(file.id, vector_store_id=made.id, poll_interval_ms=20)
    client.files.delete(file.id)
    gone = time.monotonic()
    while client.vector_stores.search(made.id, query="password of the gate").data:
        assert time.monotonic() - gone < 2.0
    client.vector_stores.delete(made.id)


def test_an_unsupported_file_fails_with_a_reason_and_nothing_of_it_is_found(
    client: openai.OpenAI, store: str
) -> None:
    file = client.vector_stores.files.upload_and_poll(
        vector_store_id=store, file=("x.md", b"\x89PNG\r\n\x1a\n" + bytes(200)), poll_interval_ms=50
    )
    assert file.status == "failed"
    assert file.last_error is not None
    assert "PNG" in file.last_error.message.upper() or "binary" in file.last_error.message
    client.files.delete(file.id)


ERRORS: list[tuple[str, type[openai.APIStatusError], dict[str, Any]]] = [
    ("model_not_found", openai.NotFoundError, {"model": "gpt-9"}),
    ("invalid_value", openai.BadRequestError, {"temperature": 9}),
    ("unsupported_value", openai.BadRequestError, {"response_format": {"type": "json_object"}}),
    ("collection_not_found", openai.NotFoundError, {"extra_body": {"tidegate": {"collections": ["nope"]}}}),
]


@pytest.mark.parametrize(("code", "error", "extra"), ERRORS, ids=[code for code, *_ in ERRORS])
def test_the_sdk_understands_our_errors(
    client: openai.OpenAI, code: str, error: type[openai.APIStatusError], extra: dict[str, Any]
) -> None:
    arguments = {"model": "fast", "messages": [{"role": "user", "content": "x"}], **extra}
    with pytest.raises(error) as raised:
        client.chat.completions.create(**arguments)
    assert raised.value.code == code


def test_a_wrong_key_is_an_authentication_error(service: Any) -> None:
    with (
        openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="tg-" + "x" * 43, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_ten_megabyte_question_is_refused_through_the_edge(service: Any) -> None:
    reply = httpx.post(
        f"{service.base_url}/v1/chat/completions",
        content=b"x" * 10_000_000,
        headers={"content-type": "application/json"},
    )
    assert reply.status_code == 413
    assert reply.json()["error"]["code"] == "payload_too_large"
