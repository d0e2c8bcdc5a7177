"""The floor of a hit: a bare Sanic handler that returns prepared bytes, behind an Envoy of the service's own making.

`python -m perf.cache.bare PORT FILE`: FILE holds the body. Envoy has the service's whole configuration (limits,
retries, health checks, access log), for one worker at PORT.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sanic import HTTPResponse, Request, Sanic

from gateway.supervise import render
from gateway.supervise.assets import find_assets
from perf.cache.client import PATH
from perf.load.arms import process
from perf.service import free_settings

HEADERS = {"x-request-id": "chatcmpl-0123456789abcdef0123456789abcdef", "x-tidegate-cache": "exact"}


def app(body: bytes) -> Sanic[Any, Any]:
    made: Sanic[Any, Any] = Sanic("bare", configure_logging=False)
    made.config.ACCESS_LOG = False
    made.config.KEEP_ALIVE_TIMEOUT = 120

    async def answer(_request: Request) -> HTTPResponse:
        return HTTPResponse(body, content_type="application/json", headers=HEADERS)

    async def ready(_request: Request) -> HTTPResponse:
        return HTTPResponse(b"{}", content_type="application/json")

    made.add_route(answer, PATH, methods=["POST"], name="answer")
    made.add_route(ready, "/health/ready", methods=["GET"], name="ready")
    return made


@contextmanager
def bare_behind_envoy(body: bytes) -> Iterator[tuple[int, list[int]]]:
    """The public port, and the processes: Envoy, Sanic."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bare-") as name:
        folder = Path(name)
        settings = free_settings(folder / "var", gateway_workers=1, log_level="warning", cache=False)
        settings.log_dir.mkdir(parents=True)
        (folder / "body").write_bytes(body)
        config = folder / "envoy.yaml"
        config.write_text(render.render_envoy(settings, find_assets()))
        worker = [sys.executable, "-m", "perf.cache.bare", str(settings.worker_port(0)), str(folder / "body")]
        ready = "http://127.0.0.1:{}/health/ready"
        with (
            process(worker, ready.format(settings.worker_port(0))) as sanic,
            process(render.envoy_command(settings, config), ready.format(settings.port)) as envoy,
        ):
            yield settings.port, [envoy.pid, sanic.pid]


def main() -> None:
    body = Path(sys.argv[2]).read_bytes()
    app(body).run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False, access_log=False)


if __name__ == "__main__":
    main()
