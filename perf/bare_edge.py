"""An Envoy of the service's own making before a bare worker: the floor of what edge and gateway add.

Envoy has the service's whole configuration (limits, retries, health checks, access log), for one worker.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gateway.supervise import render
from gateway.supervise.assets import find_assets
from perf.load.arms import process
from perf.service import free_settings

READY = "/health/ready"


@contextmanager
def bare_behind_envoy(worker: Callable[[int, Path], list[str]]) -> Iterator[tuple[int, list[int]]]:
    """The public port, and the processes: Envoy, the worker. worker: its command line, from its port and a folder; it
    answers READY once it is ready."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bare-") as name:
        folder = Path(name)
        settings = free_settings(folder / "var", gateway_workers=1, log_level="warning", cache=False)
        settings.log_dir.mkdir(parents=True)
        config = folder / "envoy.yaml"
        config.write_text(render.render_envoy(settings, find_assets()))
        port = settings.worker_port(0)
        with (
            process(worker(port, folder), f"http://127.0.0.1:{port}{READY}") as behind,
            process(
                render.envoy_command(settings, config), f"http://127.0.0.1:{settings.port}{READY}"
            ) as envoy,
        ):
            yield settings.port, [envoy.pid, behind.pid]
