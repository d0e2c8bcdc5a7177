"""The floor of a hit: a bare Sanic handler that returns prepared bytes (behind perf/bare_edge.py).

`python -m perf.cache.bare PORT FILE`: FILE holds the body.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sanic import HTTPResponse, Request, Sanic

from perf.bare_edge import READY
from perf.cache.client import PATH

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
    made.add_route(ready, READY, methods=["GET"], name="ready")
    return made


def worker(body: bytes) -> Callable[[int, Path], list[str]]:
    """Its command line, for bare_behind_envoy."""

    def argv(port: int, folder: Path) -> list[str]:
        (folder / "body").write_bytes(body)
        return [sys.executable, "-m", "perf.cache.bare", str(port), str(folder / "body")]

    return argv


def main() -> None:
    body = Path(sys.argv[2]).read_bytes()
    app(body).run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False, access_log=False)


if __name__ == "__main__":
    main()
