"""The service with one more tier, `relay`, which perf/models/relay answers: same commands, two entry points replaced.

Everything is what `tidegate up` starts (redis, guard with Triton, Envoy, one worker, ingest), in its order and with its
configuration files, but no supervisor: a part that ends spoils the measurement, so it is not brought back.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from gateway.cli.client import Target
from gateway.settings import Settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.prepare import prepare, with_absolute_paths
from gateway.supervise.samples import ingest_samples
from gateway.supervise.triton_server import leash, remove_leftovers
from perf.service import START_S, Service, free_settings, is_answering

TIER = "relay"
OURS = {"gateway.app": "perf.relay_worker", "gateway.supervise.guard": "perf.relay_guard"}
TIERS_FILE = f"""[{TIER}]
checkpoint = "none"
slots = 1024
context_tokens = 4096
"""
STOP_S = 30.0


@contextmanager
def relay_service() -> Iterator[Service]:
    """Ready, with the sample collection, one gateway worker. Its parts end when the block does."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        settings = with_absolute_paths(
            free_settings(
                Path(folder) / "var", gateway_workers=1, queue_max=2048, log_level="warning", cache=False
            )
        )
        assets = find_assets()
        prepare(settings, assets, lambda _: None)
        tiers_file = Path(folder) / "tiers.toml"
        tiers_file.write_text(TIERS_FILE)
        worker = replace(
            settings, tiers_file=str(tiers_file)
        )  # only the worker: the guard would look for weights
        parts: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for program in render.programs(settings):
                parts[program.name] = _start(program, worker if program.group == "gateway" else settings)
            service = Service(settings, os.getpid())
            _wait_until_ready(service, parts)
            ingest_samples(
                Target(service.base_url, service.key, is_direct=True),
                assets.documents,
                lambda _: None,
                lambda: False,
            )
            yield service
        finally:
            _stop(parts)
            remove_leftovers(settings)


def _start(program: render.Program, settings: Settings) -> subprocess.Popen[bytes]:
    argv = [OURS.get(word, word) for word in program.argv]
    with (settings.log_dir / f"{program.name}.log").open("wb") as log:
        return subprocess.Popen(
            leash("TERM", argv),
            env=render.child_environment(settings),
            cwd=settings.var,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait_until_ready(service: Service, parts: dict[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_S
    while not is_answering(f"{service.base_url}/health/ready"):
        ended = [name for name, part in parts.items() if part.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = "\n".join(
                f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
                for path in sorted(service.settings.log_dir.glob("*.log"))
            )
            raise RuntimeError(f"the relay service did not start ({', '.join(ended) or 'too slow'}):\n{logs}")
        time.sleep(0.05)


def _stop(parts: dict[str, subprocess.Popen[bytes]]) -> None:
    """In falling order of their start, as the supervisor does."""
    for part in reversed(parts.values()):
        part.terminate()
        try:
            part.wait(STOP_S)
        except subprocess.TimeoutExpired:
            part.kill()
            part.wait()
