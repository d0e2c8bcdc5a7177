"""The floor of a relay: a bare Sanic handler that passes an upstream's bytes on (behind perf/bare_edge.py).

`python -m perf.bare_relay PORT UPSTREAM`: the upstream's port. It reads no body, checks nobody and counts nothing; its
HTTP client is the one that the gateway has for tiers on other servers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
from sanic import HTTPResponse, Request, Sanic

from perf.bare_edge import READY
from perf.litellm_proxy import PATH

HEADERS = {"content-type": "application/json"}


def app(upstream_port: int) -> Sanic[Any, Any]:
    made: Sanic[Any, Any] = Sanic("bare-relay", configure_logging=False)
    made.config.ACCESS_LOG = False
    made.config.KEEP_ALIVE_TIMEOUT = 120
    url = f"http://127.0.0.1:{upstream_port}{PATH}"

    async def begin(_app: Sanic[Any, Any]) -> None:
        made.ctx.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
        )

    async def relay(request: Request) -> None:
        async with made.ctx.session.post(url, data=request.body, headers=HEADERS) as answer:
            response = await request.respond(content_type="text/event-stream")
            async for piece in answer.content.iter_any():
                await response.send(piece)
            await response.eof()

    async def ready(_request: Request) -> HTTPResponse:
        return HTTPResponse(b"{}", content_type="application/json")

    made.before_server_start(begin)
    made.add_route(relay, PATH, methods=["POST"], name="relay")
    made.add_route(ready, READY, methods=["GET"], name="ready")
    return made


def worker(upstream_port: int) -> Callable[[int, Path], list[str]]:
    """Its command line, for bare_behind_envoy."""
    return lambda port, _folder: [sys.executable, "-m", "perf.bare_relay", str(port), str(upstream_port)]


def main() -> None:
    app(int(sys.argv[2])).run(
        "127.0.0.1", int(sys.argv[1]), single_process=True, motd=False, access_log=False
    )


if __name__ == "__main__":
    main()
