"""What a request leaves behind: nothing that waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from sanic.server.protocols.http_protocol import HttpProtocol

from tests.integration.api.conftest import Gateway
from tests.integration.api.test_leaving import open_request
from tests.waiting import until


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def num_connections() -> int:
    """Connections of the server that are still in memory."""
    # uvloop lets a cancelled timer go at once; the loop of the tests keeps it, and the request that it knows.
    timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    timers[:] = sorted(each for each in timers if not each.cancelled())
    return sum(isinstance(each, HttpProtocol) for each in gc.get_objects())


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_client_that_leaves_costs_nothing_any_more(gateway: Gateway, stream: bool) -> None:
    """The collector's full rounds stop the event loop and are rare: what waits for one is lost for a long time."""
    gateway.fast.hold_s = 30
    before = num_connections()
    _, writer = await open_request(gateway, stream=stream)
    await until(lambda: gateway.fast.started)
    assert num_connections() == before + 1
    writer.close()
    await until(lambda: gateway.fast.cancelled)
    await until(lambda: num_connections() == before)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_request_that_ends_costs_nothing_any_more(gateway: Gateway, stream: bool) -> None:
    before = num_connections()
    reader, writer = await open_request(gateway, stream=stream)
    await reader.readuntil(b'"receipt"')
    writer.close()
    await until(lambda: num_connections() == before)
