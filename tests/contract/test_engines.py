"""What every retriever, embedder and answerer keeps, the scripted ones and the ones on a real Triton alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.generation.triton_reader import TritonReader
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.ports import Answerer, Embedder, Retriever
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import Settings
from gateway.storage.database import Database
from gateway.tier_config import UpstreamTier
from gateway.triton import TritonClient
from gateway.types import Delta, Inquiry, Scope
from tests.fakes.corpus import add_file, new_collection
from tests.fakes.engines import PASSAGES, HashEmbedder, ScriptedAnswerer, ScriptedRetriever
from tests.fakes.openai_server import running_openai
from tests.fakes.triton_process import MODELS, free_port, running_triton
from tests.integration.conftest import models_dir, triton_installed

__all__ = ["models_dir", "triton_installed"]

TIMEOUT_S = 20.0


@dataclass
class Engines:
    retriever: Retriever
    embedder: Embedder
    answerer: Answerer


@pytest.fixture(scope="module")
def triton_target(
    triton_installed: None, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real Triton with every model, over a database that holds PASSAGES. Started only for the `triton` kind."""
    folder = tmp_path_factory.mktemp("engines")
    settings = Settings(var=folder / "var", port=free_port())
    settings.var.mkdir()
    (settings.var / "models").symlink_to(models_dir)
    database = Database(settings.sql_url)
    database.migrate()
    collection_id = new_collection(database, "default")
    embedder = SentenceEmbedder(prepare_embedder(settings.models_dir, print), precision="f32")
    for passage in PASSAGES:
        add_file(database, "default", collection_id, [passage.text], embedder.embed([passage.text]))
    models = [MODELS / "retrieval" / name for name in ("embed", "search", "rerank", "retrieve")]
    models.append(MODELS / "generation" / "reader")
    with running_triton(folder / "triton", models, settings) as triton:
        yield triton.target
    database.close()


@pytest_asyncio.fixture(params=["scripted", "upstream", "triton"])
async def engines(request: pytest.FixtureRequest) -> AsyncIterator[Engines]:
    if request.param == "scripted":
        yield Engines(ScriptedRetriever(), HashEmbedder(), ScriptedAnswerer())
        return
    if request.param == "upstream":
        async with running_openai() as server:
            tier = UpstreamTier(name="large", base_url=server.url, model="m", slots=16, max_tokens=256)
            upstream = UpstreamGenerator(UpstreamClient(tier), tier)
            yield Engines(ScriptedRetriever(), HashEmbedder(), upstream)
            await upstream.close()
        return
    client = TritonClient(request.getfixturevalue("triton_target"))
    yield Engines(TritonRetriever(client), TritonEmbedder(client), TritonReader(client, "fast"))
    await client.close()


SCOPE = Scope(tenant_id="default", k=5)


async def test_passages_come_best_first_with_a_unit_vector_and_times(engines: Engines) -> None:
    found = await engines.retriever.retrieve("What is a tide gate?", SCOPE, timeout_s=TIMEOUT_S)
    scores = [passage.score for passage in found.passages]
    assert scores == sorted(scores, reverse=True)
    assert {passage.text for passage in found.passages} == {passage.text for passage in PASSAGES}
    assert np.linalg.norm(found.embedding) == pytest.approx(1.0, abs=1e-3)
    assert found.embed_ms >= 0
    assert found.search_ms >= 0


async def test_never_more_passages_than_asked_for(engines: Engines) -> None:
    found = await engines.retriever.retrieve("Envoy", Scope(tenant_id="default", k=1), timeout_s=TIMEOUT_S)
    assert len(found.passages) == 1


@pytest.mark.parametrize("count", [0, 1, 3, 70], ids=str)
async def test_embeddings_keep_count_and_order(engines: Engines, count: int) -> None:
    texts = [f"text number {number}" for number in range(count)]
    vectors = await engines.embedder.embed(texts, role="passage", timeout_s=TIMEOUT_S)
    assert vectors.shape == (count, 384)
    assert vectors.dtype == np.float32
    if count:
        alone = await engines.embedder.embed(texts[-1:], role="passage", timeout_s=TIMEOUT_S)
        assert float(vectors[-1] @ alone[0]) > 0.999


async def test_an_answer_quotes_its_passages_and_ends_with_one_reason(engines: Engines) -> None:
    deltas = await _deltas(engines, "What does a tide gate let through?")
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert deltas[-1].finish_reason == "stop"
    cited = [citation for delta in deltas for citation in delta.citations]
    assert cited
    for citation in cited:
        passage = PASSAGES[citation.passage - 1]
        assert passage.text[citation.start - passage.start : citation.end - passage.start] == citation.text
    text = "".join(delta.text for delta in deltas)
    assert all(f"[{citation.passage}]" in text for citation in cited)
    assert deltas[-1].num_input_tokens > 0


async def test_token_counts_never_fall(engines: Engines) -> None:
    counts = [delta.num_output_tokens for delta in await _deltas(engines, "What does Envoy balance?")]
    grown = [count for count in counts if count]
    assert grown == sorted(grown)


async def test_no_passages_means_no_answer_and_no_citation(engines: Engines) -> None:
    deltas = [
        delta async for delta in engines.answerer.answer(Inquiry(question="What?"), [], timeout_s=TIMEOUT_S)
    ]
    assert deltas[-1].finish_reason == "no_answer"
    assert not [citation for delta in deltas for citation in delta.citations]


async def test_leaving_early_is_clean(engines: Engines) -> None:
    answer: Any = engines.answerer.answer(
        Inquiry(question="What is a tide gate?"), PASSAGES, timeout_s=TIMEOUT_S
    )
    async with aclosing(answer):
        async for _ in answer:
            break
    again = await _deltas(engines, "What is a tide gate?")
    assert again[-1].finish_reason == "stop"


async def test_many_at_once_get_their_own_answers(engines: Engines) -> None:
    questions = ["What does a tide gate let through?", "What does Envoy balance?"] * 8
    answers = await asyncio.gather(*(_deltas(engines, question) for question in questions))
    texts = ["".join(delta.text for delta in deltas) for deltas in answers]
    assert len(set(texts[0::2])) == 1
    assert len(set(texts[1::2])) == 1


async def _deltas(engines: Engines, question: str) -> list[Delta]:
    return [
        delta
        async for delta in engines.answerer.answer(Inquiry(question=question), PASSAGES, timeout_s=TIMEOUT_S)
    ]
