"""How a worker stops: it drains, cuts off what had no time, and closes its parts in order."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from gateway.api.grpc_door import GrpcDoor
from gateway.api.services import Services
from gateway.api.validation import stopping
from gateway.lifecycle import State
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.app")

LEAD_S = 1.0  # from not ready to refusing: balancers ask every 0.5 s (envoy/bootstrap.yaml.j2)
GOODBYE_S = 2.0  # at most: to leave streams to others, and for clients to take the error that cuts them off
CUT_OFF_S = 2.0
LAST_SPANS_S = 2.0  # for the collector to take them


async def shut_down(services: Services, triton: TritonClient, server: Any, door: GrpcDoor) -> None:
    log.info("draining")
    await drain(services, server, door)
    server.close()
    await cut_off(services, server, door)
    await door.stop()
    await services.lifecycle.drain(CUT_OFF_S)  # what was cut off records its outcome before the last flush
    await services.lifecycle.stop_tasks()
    try:
        await services.recorder.flush()
    except Exception:
        log.exception("the last receipts were not written")
    for queue in services.shared_queues.values():
        await queue.close()
    await services.limits.close()
    if (memory := services.pipeline.memory) is not None:
        if memory.kept_topics is not None:
            await memory.kept_topics.close()
        if memory.joint is not None:
            await memory.joint.close()
    for upstream in services.upstreams.values():
        await upstream.close()
    await triton.close()
    if services.tracer is not None:
        await asyncio.to_thread(services.tracer.close, LAST_SPANS_S)
    await services.redis.aclose()
    services.database.close()
    log.info("stopped")


async def drain(services: Services, server: Any, door: GrpcDoor) -> bool:
    """Not ready first, then no new work and no idle connections; what is open finishes. True when all of it did."""
    drain_s = services.settings.drain_s
    lead_s = min(LEAD_S, drain_s / 4)
    await services.lifecycle.retire(lead_s)
    door.retire(drain_s)
    for connection in list(server.connections):
        if not connection.close_if_idle():
            connection.http.keep_alive = False  # it ends with the answer that is under way
    return await services.lifecycle.drain(drain_s - lead_s)


async def cut_off(services: Services, server: Any, door: GrpcDoor) -> None:
    """End what the drain had no time for: each stream with an error event, each other request with a 503."""
    services.lifecycle.state = State.STOPPED  # whoever is cut off now is not to blame for it
    tasks = []
    for connection in server.connections:
        if connection._task is None:
            continue
        if connection.http is not None:
            connection.http.exception = stopping()  # Sanic's answer, where the request has none to its cancel
        connection._task.cancel()
        tasks.append(connection._task)
    goodbye = asyncio.create_task(door.cut_off())
    if tasks:
        await asyncio.wait(tasks, timeout=GOODBYE_S)
    await goodbye
    for connection in list(server.connections):
        connection.close()
