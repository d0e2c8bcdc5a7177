"""Fixtures of the integration level: real processes, real sockets."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.embedding.export import EmbedderUnavailable, prepare_embedder
from gateway.settings import load_settings
from gateway.supervise.binaries import BinaryMissing, find_libpython, find_stub, find_triton_home
from gateway.triton import TritonClient
from tests.fakes.triton_process import TritonProcess


@pytest.fixture(scope="session")
def triton_installed() -> None:
    """Skips, saying why, where Triton cannot run."""
    try:
        find_stub(find_triton_home(load_settings({})))
    except BinaryMissing as missing:
        pytest.skip(f"no tritonserver: {missing}")
    if find_libpython() is None:
        pytest.skip("no tritonserver: this Python has no shared library")


@pytest.fixture(scope="session")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedding model, built once per run. TEST_MODELS_DIR keeps it between runs."""
    kept = os.environ.get("TEST_MODELS_DIR")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("models")
    try:
        prepare_embedder(folder, print)
    except EmbedderUnavailable as missing:
        pytest.skip(f"no embedding model: {missing}")
    return folder


@pytest_asyncio.fixture
async def client(triton: TritonProcess) -> AsyncIterator[TritonClient]:
    """Of the module's Triton."""
    client = TritonClient(triton.target)
    yield client
    await client.close()
