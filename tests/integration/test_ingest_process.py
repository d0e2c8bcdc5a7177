"""`python -m gateway.ingest_app` as a real process, before any of its neighbours is there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.ingest_app import TURN_FILE
from gateway.settings import Settings
from gateway.storage import catalog, keys, ledger
from gateway.storage.blobs import BlobStore
from gateway.storage.database import Database
from tests.fakes.ingest import upload
from tests.fakes.triton_process import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(var=tmp_path, port=min(free_port(), 60000))


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.sql_url)
    yield database
    database.close()


@pytest.fixture
def process(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.ingest_app"],
        env={**os.environ, **settings.environment()},
        cwd=Path(__file__).parents[2],
        stderr=subprocess.PIPE,
        text=True,
    )
    yield process
    process.kill()
    process.communicate()


def test_old_receipts_are_pruned_and_new_ones_kept(
    settings: Settings, database: Database, request: pytest.FixtureRequest
) -> None:
    database.migrate()
    now = int(time.time())
    ages = {"old": 31 * 24 * 3600, "new": 29 * 24 * 3600}
    entries = [
        ledger.LedgerEntry(
            receipt_id=name, tenant_id="t", key_id="", tier="", outcome="completed", body_json="{}",
            prompt_tokens=0, completion_tokens=0, created_at=now - age,
        )
        for name, age in ages.items()
    ]  # fmt: skip
    with database.write() as conn:
        ledger.record(conn, entries)
    _wait_for_line(request.getfixturevalue("process"), "old receipts pruned: 1")
    with database.read() as conn:
        assert ledger.get_receipt(conn, "t", "old") is None
        assert ledger.get_receipt(conn, "t", "new") == "{}"


def _wait_for_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if text in line:
            return
    pytest.fail("".join(seen))


def _status(database: Database, collection_id: str, file_id: str) -> catalog.AttachmentRow:
    with database.read() as conn:
        row = catalog.get_attachment(conn, "default", collection_id, file_id)
    assert row is not None
    return row


def _probe(settings: Settings) -> int:
    """The liveness check of the manifest, of this worker's file; returns its exit code."""
    manifest = yaml.safe_load((Path(__file__).parents[2] / "k8s/base/ingest.yaml").read_text("utf-8"))
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    _, *words = container["livenessProbe"]["exec"]["command"]
    in_the_image = f"/var/lib/tidegate/run/{TURN_FILE}"
    assert in_the_image in words[-1]
    words[-1] = words[-1].replace(in_the_image, str(settings.run_dir / TURN_FILE))
    return subprocess.run([sys.executable, *words], stderr=subprocess.DEVNULL, check=False).returncode


def _until_the_probe_says(settings: Settings, code: int) -> None:
    deadline = time.monotonic() + 20
    while _probe(settings) != code:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_worker_that_stands_still_fails_its_probe(
    settings: Settings, process: subprocess.Popen[str]
) -> None:
    assert _probe(settings) == 1  # it has not begun
    _wait_for_line(process, "ready")
    _until_the_probe_says(settings, 0)
    process.send_signal(signal.SIGSTOP)
    try:
        long_ago = time.time() - 200  # as if it had stood still for so long: nobody touches the file any more
        os.utime(settings.run_dir / TURN_FILE, (long_ago, long_ago))
        assert _probe(settings) == 1
    finally:
        process.send_signal(signal.SIGCONT)
    _until_the_probe_says(settings, 0)  # it goes round without Triton and Redis, too


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_makes_the_tables_works_without_neighbours_and_stops_when_told(
    settings: Settings, database: Database, process: subprocess.Popen[str], number: signal.Signals
) -> None:
    _wait_for_line(process, "ready")
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        collection_id = catalog.create_collection(conn, "default", "docs", {}).id
    blobs = BlobStore(settings.files_dir)
    readable = upload(database, blobs, collection_id, "a.txt", b"words")
    broken = upload(database, blobs, collection_id, "a.pdf", b"%PDF-1.7")
    _wait_for_line(process, "trying again")  # Triton is away: the text waits for it
    deadline = time.monotonic() + 10
    while _status(database, collection_id, broken).status == "in_progress":  # the other one does not
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(10) == 0
    waiting = _status(database, collection_id, readable)
    assert (waiting.status, waiting.lease_until) == ("in_progress", 0.0)
    assert _status(database, collection_id, broken).error_code == "damaged_file"
    assert not (settings.run_dir / TURN_FILE).exists()
