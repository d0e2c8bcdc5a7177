from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from gateway.errors import UpstreamProtocolError
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.tensors import EMBEDDING_DIM, Model
from gateway.types import Passage, Scope

PASSAGE = Passage(
    chunk_id=1,
    collection_id="c",
    file_id="f",
    filename="a",
    ordinal=0,
    heading="",
    start=0,
    end=1,
    text="x",
    score=0.5,
)
GOOD: dict[str, Any] = {
    "embedding": np.ones((1, EMBEDDING_DIM), np.float32),
    "passages": [json.dumps([{name: getattr(PASSAGE, name) for name in PASSAGE.__struct_fields__}]).encode()],
    "search_ms": np.array([[2.5]], np.float32),
    "embedders": [b"[]"],
    "epoch": np.array([[7]], np.int64),
}


class ScriptedClient:
    """Answers every call with the given outputs and keeps what it was asked."""

    def __init__(self, outputs: Mapping[str, Any]) -> None:
        self.outputs, self.asked = outputs, []

    async def infer(
        self, model: Model, inputs: Mapping[str, Any], *, timeout_s: float, batch: int = 1
    ) -> Any:
        self.asked.append((model.name, inputs, batch))
        return self.outputs


def retriever(**changed: Any) -> TritonRetriever:
    return TritonRetriever(ScriptedClient(GOOD | changed))  # type: ignore[arg-type]


async def test_answer_becomes_passages_and_times() -> None:
    found = await retriever(search_ms=np.array([[60_000.0]], np.float32)).retrieve(
        "q", Scope(tenant_id="t"), timeout_s=1
    )
    assert found.passages == [PASSAGE]
    assert found.search_ms == 60_000.0
    assert found.epoch == 7
    assert found.embed_ms == 0.0  # the call took less than it says the search took
    assert found.embedding.shape == (EMBEDDING_DIM,)


async def test_scope_travels_whole() -> None:
    client = ScriptedClient(GOOD)
    scope = Scope(tenant_id='t"', collections=["a", "b"], k=9)
    await TritonRetriever(client).retrieve("q", scope, timeout_s=1)  # type: ignore[arg-type]
    sent = json.loads(client.asked[0][1]["scope"])
    assert sent == {"tenant_id": 't"', "collections": ["a", "b"], "k": 9}


@pytest.mark.parametrize(
    "changed",
    [
        {"embedding": np.ones((1, 0), np.float32)},
        {"embedding": np.ones(3, np.float32)},
        {"embedding": np.ones((2, EMBEDDING_DIM), np.float32)},
        {"passages": [b"{}"]},
        {"passages": [b'[{"chunk_id":1}]']},
        {"passages": [b"\xff"]},
        {"passages": [b"[]", b"[]"]},
        {"passages": []},
        {"search_ms": np.ones((2, 1), np.float32)},
        {"embedders": [b"{}"]},
        {"embedders": []},
    ],
    ids=[
        "no numbers",
        "no rows",
        "rows",
        "no-list",
        "fields-missing",
        "not-utf8",
        "two-answers",
        "no-answer",
        "two-times",
        "no names",
        "no embedders",
    ],
)
async def test_malformed_answer_is_a_protocol_error(changed: dict[str, Any]) -> None:
    with pytest.raises(UpstreamProtocolError):
        await retriever(**changed).retrieve("q", Scope(tenant_id="t"), timeout_s=1)


async def test_a_known_vector_is_searched_with_and_not_made_again() -> None:
    client, vector = ScriptedClient(GOOD), np.full(EMBEDDING_DIM, 0.5, np.float32)
    made = TritonRetriever(client)  # type: ignore[arg-type]
    found = await made.retrieve("q", Scope(tenant_id="t", k=3), timeout_s=1, embedding=vector)
    assert (found.passages, found.search_ms, found.epoch) == ([PASSAGE], 2.5, 7)
    assert (found.embedding == vector).all()
    (search, asked, _), (rerank, ranked, _) = client.asked
    assert (search, rerank) == ("search", "rerank")
    assert (asked["embedding"] == vector[None]).all()
    assert (asked["text"], ranked["text"]) == ("q", "q")
    assert ranked["candidates"] == GOOD["passages"][0]
    assert asked["scope"] == ranked["scope"]


@pytest.mark.parametrize(
    "changed", [{"passages": []}, {"passages": [b"{}"]}, {"epoch": np.ones((2, 1), np.int64)}], ids=str
)
async def test_a_malformed_answer_to_a_vector_is_a_protocol_error(changed: dict[str, Any]) -> None:
    vector = np.ones(EMBEDDING_DIM, np.float32)
    with pytest.raises(UpstreamProtocolError):
        await retriever(**changed).retrieve("q", Scope(tenant_id="t"), timeout_s=1, embedding=vector)


async def test_embedder_checks_the_number_of_rows() -> None:
    embedder = TritonEmbedder(ScriptedClient(GOOD))  # type: ignore[arg-type]
    assert (await embedder.embed(["a"], role="query", timeout_s=1)).shape == (1, EMBEDDING_DIM)
    with pytest.raises(UpstreamProtocolError):
        await embedder.embed(["a", "b"], role="query", timeout_s=1)


async def test_embedder_sends_the_role_of_every_text() -> None:
    client = ScriptedClient(GOOD)
    await TritonEmbedder(client).embed(["a"], role="passage", timeout_s=1)  # type: ignore[arg-type]
    assert client.asked == [("embed", {"text": [b"a"], "role": [b"passage"]}, 1)]


async def test_the_default_embedder_is_not_named_and_another_one_is() -> None:
    client = ScriptedClient(GOOD)
    embedder = TritonEmbedder(client)  # type: ignore[arg-type]
    await embedder.embed(["a"], role="passage", timeout_s=1, embedder="small")
    assert client.asked[0][1]["embedder"] == [b"small"]


async def test_vectors_of_several_lengths_are_a_protocol_error() -> None:
    class Changing(ScriptedClient):
        async def infer(self, model: Model, inputs: Mapping[str, Any], **_: Any) -> Any:
            number = len(inputs["text"])
            return {"embedding": np.ones((number, number), np.float32)}

    with pytest.raises(UpstreamProtocolError):
        await TritonEmbedder(Changing(GOOD)).embed(["x"] * 40, role="query", timeout_s=1)  # type: ignore[arg-type]
