"""Models `embed`, `search` and `retrieve` on a real Triton, over a real SQLite file, and the ports on top of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

from gateway.errors import UpstreamProtocolError, UpstreamTimeout
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import load_settings
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM, SEARCH
from gateway.triton import TritonClient
from gateway.types import Passage, Scope
from tests.fakes import corpus
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

VECTORS = np.eye(EMBEDDING_DIM, dtype=np.float32)
SOON_S = 2.0  # most often a tenth


@pytest.fixture(scope="module")
def sql_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('search') / 'tidegate.db'}"


@pytest.fixture(scope="module")
def database(sql_url: str) -> Iterator[Database]:
    database = Database(sql_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture(scope="module")
def triton(
    triton_installed: None,
    models_dir: Path,
    database: Database,
    sql_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "var").mkdir()
    (folder / "var" / "models").symlink_to(models_dir)
    settings = load_settings({}, var=folder / "var", port=free_port(), database_url=sql_url)
    with running_triton(folder, sorted((MODELS / "retrieval").iterdir()), settings) as process:
        yield process


async def search(client: TritonClient, vector: np.ndarray, scope: Scope | bytes) -> list[Passage]:
    encoded = scope if isinstance(scope, bytes) else msgspec.json.encode(scope)
    inputs = {"embedding": vector[None], "text": "", "scope": encoded}
    outputs = await client.infer(SEARCH, inputs, timeout_s=5)
    assert outputs["search_ms"].shape == outputs["epoch"].shape == (1, 1)
    return msgspec.json.decode(outputs["passages"][0], type=list[Passage])


async def searchable(client: TritonClient, vector: np.ndarray, scope: Scope, wanted: set[str]) -> float:
    """Seconds until exactly these texts are found."""
    started = time.monotonic()
    while {passage.text for passage in await search(client, vector, scope)} != wanted:
        assert time.monotonic() - started < 5.0, "never searchable"
        await asyncio.sleep(0.01)
    return time.monotonic() - started


async def test_new_file_is_soon_searchable_and_a_removed_one_gone(
    client: TritonClient, database: Database
) -> None:
    collection, scope = corpus.new_collection(database, "fresh"), Scope(tenant_id="fresh")
    for number in range(3):
        file_id = corpus.add_file(database, "fresh", collection, [f"text {number}"], VECTORS[:1])
        assert await searchable(client, VECTORS[0], scope, {f"text {number}"}) < SOON_S
        corpus.remove_file(database, "fresh", collection, file_id)
        assert await searchable(client, VECTORS[0], scope, set()) < SOON_S


async def test_tenants_never_see_each_other(client: TritonClient, database: Database) -> None:
    mine, theirs = corpus.new_collection(database, "mine"), corpus.new_collection(database, "theirs")
    corpus.add_file(database, "mine", mine, ["mine"], VECTORS[1:2])
    corpus.add_file(database, "theirs", theirs, ["theirs"], VECTORS[1:2])
    await searchable(client, VECTORS[1], Scope(tenant_id="theirs"), {"theirs"})
    await searchable(client, VECTORS[1], Scope(tenant_id="mine"), {"mine"})
    assert await search(client, VECTORS[1], Scope(tenant_id="mine", collections=[theirs])) == []


BAD_SCOPES = {
    "not-json": b"{",
    "no-tenant": b"{}",
    "k-too-large": b'{"tenant_id":"mine","k":65}',
    "k-is-text": b'{"tenant_id":"mine","k":"5"}',
    "not-utf8": b'{"tenant_id":"\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("bad", BAD_SCOPES.values(), ids=BAD_SCOPES.keys())
async def test_bad_scope_fails_alone(client: TritonClient, bad: bytes) -> None:
    good = msgspec.json.encode(Scope(tenant_id="nobody"))
    answers = await asyncio.gather(
        *[search(client, VECTORS[0], scope) for scope in (good, bad, good)], return_exceptions=True
    )
    assert answers[0] == answers[2] == []
    assert isinstance(answers[1], UpstreamProtocolError)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
async def test_bad_embedding_fails_alone(client: TritonClient, value: float) -> None:
    scope = Scope(tenant_id="nobody")
    bad = np.full(EMBEDDING_DIM, value, np.float32)
    answers = await asyncio.gather(
        *[search(client, vector, scope) for vector in (VECTORS[0], bad, VECTORS[0])], return_exceptions=True
    )
    assert answers[0] == answers[2] == []
    assert isinstance(answers[1], UpstreamProtocolError)


async def test_rows_of_one_request_keep_their_order(client: TritonClient, database: Database) -> None:
    collection = corpus.new_collection(database, "rows")
    corpus.add_file(database, "rows", collection, ["zero", "one", "two"], VECTORS[:3])
    scope = Scope(tenant_id="rows", k=1)
    await searchable(client, VECTORS[0], scope, {"zero", "one", "two"})
    order = [2, 0, 1, 1]
    inputs = {
        "embedding": VECTORS[order],
        "text": [b""] * len(order),
        "scope": [msgspec.json.encode(scope)] * len(order),
    }
    outputs = await client.infer(SEARCH, inputs, timeout_s=5, batch=len(order))
    texts = [json.loads(passages)[0]["text"] for passages in outputs["passages"]]
    assert texts == ["two", "zero", "one", "one"]


SENTENCES = [
    "A tide gate lets river water out and keeps the sea from flowing back in.",
    "The cafeteria serves soup every day except Sunday.",
    "Invoices are paid within thirty days of delivery.",
]


async def test_question_finds_its_passage_through_the_ensemble(
    client: TritonClient, database: Database
) -> None:
    collection = corpus.new_collection(database, "ensemble")
    vectors = await TritonEmbedder(client).embed(SENTENCES, role="passage", timeout_s=10)
    file_ids = [
        corpus.add_file(database, "ensemble", collection, [text], vector[None], filename="facts.md")
        for text, vector in zip(SENTENCES, vectors, strict=True)
    ]
    scope = Scope(tenant_id="ensemble", collections=[collection], k=2)
    await searchable(client, vectors[0], msgspec.structs.replace(scope, k=3), set(SENTENCES))
    found = await TritonRetriever(client).retrieve("When is an invoice due?", scope, timeout_s=10)
    assert [found.passages[0].text, len(found.passages)] == [SENTENCES[2], 2]
    assert (found.passages[0].file_id, found.passages[0].filename) == (file_ids[2], "facts.md")
    assert found.passages[0].lexical > 0
    assert found.passages[0].score == pytest.approx(float(vectors[2] @ found.embedding), abs=1e-4)
    assert found.embed_ms > 0
    assert found.search_ms > 0


async def test_a_known_vector_finds_the_same_and_embeds_nothing(
    client: TritonClient, triton: TritonProcess, database: Database
) -> None:
    collection = corpus.new_collection(database, "known")
    vectors = await TritonEmbedder(client).embed(SENTENCES, role="passage", timeout_s=10)
    for text, vector in zip(SENTENCES, vectors, strict=True):
        corpus.add_file(database, "known", collection, [text], vector[None], filename="facts.md")
    scope = Scope(tenant_id="known", collections=[collection], k=2)
    await searchable(client, vectors[0], msgspec.structs.replace(scope, k=3), set(SENTENCES))
    retriever, question = TritonRetriever(client), "When is an invoice due?"
    embedded = await runs_of(triton, "embed")
    made = await retriever.retrieve(question, scope, timeout_s=10)
    assert await runs_of(triton, "embed") == embedded + 1
    again = await retriever.retrieve(question, scope, timeout_s=10, embedding=made.embedding)
    assert await runs_of(triton, "embed") == embedded + 1
    assert again.passages == made.passages  # hybrid: the words count too
    assert again.epoch >= made.epoch


async def runs_of(triton: TritonProcess, model: str) -> int:
    """Requests that Triton has run through a model so far."""
    async with httpx.AsyncClient() as http:
        shown = (await http.get(f"{triton.http}/v2/models/{model}/stats")).json()
    return int(shown["model_stats"][0]["inference_stats"]["success"]["count"])


async def test_neighbours_that_both_match_come_as_one_passage(
    client: TritonClient, database: Database
) -> None:
    collection = corpus.new_collection(database, "neighbours")
    texts = ["The old lock was built in 1907. ", "The new lock was built in 2011. ", "Lunch is at noon."]
    vectors = await TritonEmbedder(client).embed(texts, role="passage", timeout_s=10)
    corpus.add_file(database, "neighbours", collection, texts, vectors)
    scope = Scope(tenant_id="neighbours", k=1)
    await searchable(client, vectors[0], scope, set(texts))
    found = await TritonRetriever(client).retrieve("When was the lock built?", scope, timeout_s=10)
    (passage,) = found.passages
    assert (passage.start, passage.text) == (0, "".join(texts)[: passage.end])
    assert passage.text.startswith(texts[0] + texts[1])
    assert len(passage.chunk_ids) >= 2


async def test_rare_word_finds_what_the_embedding_does_not(client: TritonClient, database: Database) -> None:
    collection = corpus.new_collection(database, "words")
    vectors = np.roll(VECTORS, 1, axis=0)[:40]
    texts = [f"Section {number} is about nothing." for number in range(39)] + ["The code is XK-4711."]
    for text, vector in zip(texts, vectors, strict=True):
        corpus.add_file(database, "words", collection, [text], vector[None])
    scope = Scope(tenant_id="words", ranking="lexical")
    inputs = {"embedding": VECTORS[:1], "text": "what is XK-4711?", "scope": msgspec.json.encode(scope)}
    started = time.monotonic()
    while True:
        outputs = await client.infer(SEARCH, inputs, timeout_s=5)
        passages = msgspec.json.decode(outputs["passages"][0], type=list[Passage])
        if passages:
            break
        assert time.monotonic() - started < 5.0, "never searchable"
        await asyncio.sleep(0.01)
    assert passages[0].text == "The code is XK-4711."
    assert json.loads(outputs["embedders"][0]) == []


async def test_many_questions_at_once_each_get_their_own_answer(
    client: TritonClient, database: Database
) -> None:
    collection = corpus.new_collection(database, "flood")
    texts = [f"Room {number} is on floor {number % 7}." for number in range(64)]
    vectors = await TritonEmbedder(client).embed(texts, role="passage", timeout_s=20)
    corpus.add_file(database, "flood", collection, texts, vectors)
    scope, retriever = Scope(tenant_id="flood", k=1), TritonRetriever(client)
    await searchable(client, vectors[0], msgspec.structs.replace(scope, k=64), set(texts))
    found = await asyncio.gather(*[retriever.retrieve(text, scope, timeout_s=20) for text in texts])
    assert [answer.passages[0].text for answer in found] == texts


async def test_long_list_is_embedded_in_order(client: TritonClient) -> None:
    embedder = TritonEmbedder(client)
    texts = [f"sentence number {number}" for number in range(70)]
    whole = await embedder.embed(texts, role="passage", timeout_s=20)
    assert whole.shape == (70, EMBEDDING_DIM)
    for number in (0, 31, 32, 69):
        alone = await embedder.embed([texts[number]], role="passage", timeout_s=20)
        assert float(alone[0] @ whole[number]) > 0.999
    assert (await embedder.embed([], role="passage", timeout_s=1)).shape == (0, EMBEDDING_DIM)


async def test_failure_of_one_batch_is_the_plain_error(client: TritonClient) -> None:
    embedder = TritonEmbedder(client)
    with pytest.raises(UpstreamTimeout):
        await embedder.embed(["x"] * 100, role="passage", timeout_s=0.0)
    with pytest.raises(UpstreamProtocolError):
        await embedder.embed(["x"] * 100, role="poem", timeout_s=10)


async def test_bad_scope_fails_the_question_through_the_ensemble(client: TritonClient) -> None:
    with pytest.raises(UpstreamProtocolError):
        await TritonRetriever(client).retrieve("x", Scope(tenant_id="t", k=0), timeout_s=10)
