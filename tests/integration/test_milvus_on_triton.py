"""From an upload to a passage with Milvus between: the ingest process, Triton's `search` and a Milvus server, each a
process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.retrieval.triton_models import TritonRetriever
from gateway.settings import Settings, load_settings
from gateway.storage import catalog, keys
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from gateway.triton import TritonClient
from gateway.types import Scope
from tests.fakes.ingest import upload
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

ROOT = Path(__file__).parents[2]
SCOPE = Scope(tenant_id="default", k=3)


def spare_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def milvus_server(port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [Path(sys.executable).with_name("milvus-lite"), "server", "--data-dir", folder]
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 30
        while not _answers(port):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def settings(models_dir: Path, tmp_path: Path) -> Settings:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "models").symlink_to(models_dir)
    port = free_port()
    return load_settings(
        {},
        var=tmp_path / "var",
        port=port,
        inner_port=port + 300,  # no balancer here: Triton's own gRPC port
        vector_store=f"milvus:http://127.0.0.1:{spare_port()}",
        chunk_chars=120,
        chunk_overlap_chars=0,
    )


@pytest.fixture
def milvus_port(settings: Settings) -> int:
    return int(settings.milvus_uri.rsplit(":", 1)[1])


@pytest.fixture
def triton(triton_installed: None, settings: Settings, tmp_path: Path) -> Iterator[TritonProcess]:
    with running_triton(tmp_path, sorted((MODELS / "retrieval").iterdir()), settings) as process:
        yield process


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.sql_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def ingest(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "ingest.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.ingest_app"],
            env={**os.environ, **settings.environment()},
            cwd=ROOT,
            stderr=log,
        )
    yield process
    process.kill()
    process.wait()


async def found(retriever: TritonRetriever, question: str) -> list[str]:
    retrieved = await retriever.retrieve(question, SCOPE, timeout_s=5)
    return [passage.text for passage in retrieved.passages]


async def until(retriever: TritonRetriever, question: str, is_found: bool, *, within_s: float) -> None:
    """Until something, or nothing, is found; an outage is passed over."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if bool(await found(retriever, question)) == is_found:
                return
        except UpstreamUnavailable:
            pass
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_upload_search_removal_and_an_outage_of_milvus(
    settings: Settings,
    milvus_port: int,
    database: Database,
    ingest: subprocess.Popen[bytes],
    triton: TritonProcess,
    tmp_path: Path,
) -> None:
    question = "When does the barrier shut?"
    client = TritonClient(triton.target)
    retriever = TritonRetriever(client)
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        docs = catalog.create_collection(conn, "default", "docs", {}).id
    guide = b"# Harbour\n\nThe gate closes by itself when the sea stands higher than the river.\n"
    file_id = upload(database, BlobStore(settings.files_dir), docs, "guide.md", guide)
    with pytest.raises(UpstreamUnavailable) as refused:  # ready, and honest about what it stands on
        await found(retriever, question)
    assert refused.value.code == "vector_store_unavailable"

    with milvus_server(milvus_port, tmp_path / "milvus"):
        await until(retriever, question, True, within_s=40)
        (text,) = await found(retriever, question)
        assert "closes by itself" in text

    started = time.monotonic()
    with pytest.raises(UpstreamUnavailable):
        await found(retriever, question)
    assert time.monotonic() - started < settings.milvus_timeout_s + 1
    with database.write() as conn:
        assert catalog.detach_file(conn, "default", docs, file_id)

    with milvus_server(milvus_port, tmp_path / "milvus"):  # killed above: what it had acknowledged is there
        await until(retriever, question, False, within_s=30)
        again = upload(database, BlobStore(settings.files_dir), docs, "again.md", guide)
        await until(retriever, question, True, within_s=30)
        with database.write() as conn:
            assert catalog.detach_file(conn, "default", docs, again)
        await until(retriever, question, False, within_s=2.0)
        ingest.send_signal(signal.SIGTERM)
        assert ingest.wait(10) == 0
    await client.close()
    log = (tmp_path / "ingest.log").read_text()
    assert log.count("Milvus is not fed for the moment") == 2
    assert "Traceback" not in log
