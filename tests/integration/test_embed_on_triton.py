"""Model `embed` on a real Triton: batches of many requests, each with its own vectors or its own error."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.errors import UpstreamProtocolError
from gateway.settings import load_settings
from gateway.tensors import EMBED
from gateway.triton import TritonClient
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton


@pytest.fixture(scope="module")
def triton(
    triton_installed: None, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "var").mkdir()
    (folder / "var" / "models").symlink_to(models_dir)
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [MODELS / "retrieval" / "embed"], settings) as process:
        yield process


@pytest.fixture(scope="module")
def local(models_dir: Path) -> SentenceEmbedder:
    """The same runtime in this process, to compare with."""
    return SentenceEmbedder(prepare_embedder(models_dir, print))


async def embed(client: TritonClient, texts: Sequence[bytes], role: bytes | None = None) -> np.ndarray:
    inputs = {"text": list(texts)} | ({"role": [role] * len(texts)} if role else {})
    return np.asarray((await client.infer(EMBED, inputs, timeout_s=10, batch=len(texts)))["embedding"])


async def test_requests_of_mixed_sizes_get_their_own_vectors(
    client: TritonClient, local: SentenceEmbedder
) -> None:
    requests = [[f"request {n}, text {row} " * (1 + n * 3) for row in range(1 + n % 5)] for n in range(24)]
    answers = await asyncio.gather(*[embed(client, [text.encode() for text in texts]) for texts in requests])
    for texts, vectors in zip(requests, answers, strict=True):
        assert vectors.shape == (len(texts), 384)
        assert (vectors * local.embed(texts)).sum(axis=1).min() > 0.9995


@pytest.mark.parametrize(
    ("texts", "role"),
    [
        pytest.param([b"cut \xff"], None, id="not UTF-8"),
        pytest.param([b"good", b"\xed\xa0\x80"], None, id="an encoded surrogate"),
        pytest.param([b"good"], b"answer", id="unknown role"),
    ],
)
async def test_a_bad_request_fails_alone(
    client: TritonClient, texts: list[bytes], role: bytes | None
) -> None:
    calls = [embed(client, [b"good"]), embed(client, texts, role), embed(client, [b"good"])]
    first, bad, last = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(bad, UpstreamProtocolError)
    assert isinstance(first, np.ndarray)
    assert isinstance(last, np.ndarray)


@pytest.mark.parametrize("role", [b"query", b"passage"])
async def test_both_roles_are_accepted(client: TritonClient, role: bytes) -> None:
    assert (await embed(client, [b"tide", b""], role)).shape == (2, 384)


async def test_a_huge_text_is_answered_in_bounded_time(client: TritonClient) -> None:
    assert (await embed(client, [b"tide " * 800_000])).shape == (1, 384)
