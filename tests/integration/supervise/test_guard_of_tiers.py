"""A guard with a real Triton that has a generative tier: it watches that tier's process too."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gateway.settings import Settings, load_settings
from gateway.storage.database import Database
from gateway.supervise.render import child_environment
from tests.fakes.checkpoints import MAKING_S, TinyCheckpoint, tiny_checkpoints
from tests.fakes.triton_process import free_port

__all__ = ["tiny_checkpoints"]
pytestmark = pytest.mark.timeout(MAKING_S)

READY_S = 90.0
NOTICED_S = 3.0


@pytest.fixture
def settings(
    triton_installed: None, models_dir: Path, tiny_checkpoints: dict[str, TinyCheckpoint], tmp_path: Path
) -> Settings:
    tiny = tiny_checkpoints["llama"]
    (tmp_path / "tiers.toml").write_text(tiny.table("small", slots=4), "utf-8")
    settings = load_settings(
        {}, var=tmp_path / "var", port=free_port(), tiers_file=str(tmp_path / "tiers.toml"), embed_threads=1
    )
    for folder in (settings.run_dir, settings.models_dir):
        folder.mkdir(parents=True)
    (settings.models_dir / "generate").symlink_to(tiny.models_dir / "generate")
    for folder in models_dir.glob("embed-*"):
        (settings.models_dir / folder.name).symlink_to(folder)
    database = Database(settings.sql_url)
    database.migrate()
    database.close()
    return settings


@pytest.fixture
def guard(settings: Settings) -> Iterator[psutil.Process]:
    with (settings.var / "guard.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "gateway.supervise.guard", "0"],
            env=child_environment(settings),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(settings, {"ready"}, READY_S)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def state(settings: Settings) -> str:
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{settings.triton_ports(0)[3]}/health", timeout=2
        ) as answer:
            body = answer.read()
    except urllib.error.HTTPError as refusal:
        body = refusal.read()
    except OSError:
        return "gone"
    return str(json.loads(body)["state"])


def wait_for(settings: Settings, wanted: set[str], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while state(settings) not in wanted:
        assert time.monotonic() < deadline_s, (settings.var / "guard.log").read_text(errors="replace")[-4000:]
        time.sleep(0.05)


def test_a_killed_tier_is_noticed_and_its_replica_ended(settings: Settings, guard: psutil.Process) -> None:
    stub = next(
        child
        for child in guard.children(recursive=True)
        if any("/tiers/small/" in word for word in child.cmdline())
    )
    killed_s = time.monotonic()
    stub.kill()
    wait_for(settings, {"dead", "gone"}, NOTICED_S)  # the first for less than half a second
    assert guard.wait(NOTICED_S) == 1
    assert time.monotonic() - killed_s < 2 * NOTICED_S
    assert "model stub" in (settings.var / "guard.log").read_text(errors="replace")
