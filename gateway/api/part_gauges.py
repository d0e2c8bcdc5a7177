"""Gauges of what a worker depends on: its own state, its neighbours, the database and the ingest queue in it."""

from __future__ import annotations

import asyncio
import logging
import time

from gateway.api.services import Services
from gateway.errors import TidegateError
from gateway.lifecycle import State
from gateway.storage.backlog import Backlog, ingest_backlog

log = logging.getLogger("tidegate.gauges")

EVERY_S = 5.0


def show_state(services: Services) -> None:
    """Whether the worker takes requests, at every scrape from now on."""
    services.metrics.ready.set_function(lambda: float(services.lifecycle.state is State.READY))


def show_parts(services: Services) -> None:
    """Each neighbour as `/health/ready` tells of it."""
    for name, state in services.parts.items():
        services.metrics.part_up.labels(name).set(state == "ok")


async def watch_backlog(services: Services) -> None:
    """Read the ingest queue every EVERY_S, for ever. A database that does not answer shows as the part `sql`."""
    metrics = services.metrics

    def read() -> Backlog:
        with services.database.read() as conn:
            return ingest_backlog(conn, time.time())

    while True:
        try:
            backlog = await asyncio.to_thread(read)
        except (TidegateError, OSError) as error:
            log.debug("the ingest queue cannot be read: %s", error)
            metrics.part_up.labels("sql").set(0)
        else:
            metrics.part_up.labels("sql").set(1)
            metrics.ingest_waiting.set(backlog.num_files)
            metrics.ingest_working.set(backlog.num_working)
            metrics.ingest_oldest_s.set(backlog.oldest_s)
            metrics.ingest_attempts.set(backlog.most_attempts)
        await asyncio.sleep(EVERY_S)
