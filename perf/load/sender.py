"""One generator process: sends its part of a schedule at the scheduled times, whatever the answers do.

`python -m perf.load.sender JOB OUT`: prints `ready`, waits for the start time on standard input (perf_counter, which
all processes of a machine share), then prints one line of counts a second. Rows go to OUT.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from pathlib import Path
from time import perf_counter

import msgspec
import uvloop

from perf.load import rows
from perf.load.arrivals import Planned
from perf.load.client import Connection, Endpoint, Exchange
from perf.load.rows import LoadRow
from perf.relay_text import chunk

SPARE_FILES = 200
TELL_S = 1.0


class Job(msgspec.Struct, frozen=True):
    """patience_s: after that long without its end, a caller leaves. address: to connect from; empty = any. One address
    has some 28,000 ports."""

    endpoint: Endpoint
    planned: list[Planned]
    patience_s: float
    address: str = ""


class Told(msgspec.Struct):
    """Counts so far, as they are printed."""

    sent: int = 0
    in_flight: int = 0
    completed: int = 0
    refused: int = 0
    failed: int = 0


class Sender:
    """Open loop: `_pump` starts whatever is due and comes back at the next due time; it waits for nothing."""

    def __init__(self, job: Job, max_open: int) -> None:
        self._job = job
        self._max_open = max_open
        self._loop = asyncio.get_running_loop()
        self._requests = [job.endpoint.request(each) for each in job.planned]
        self._idle: list[Connection] = []
        self._next = 0
        self._start_s = 0.0
        self._num_left = len(job.planned)
        self._tasks: set[asyncio.Task[None]] = set()
        self._all_over = asyncio.Event()
        self.rows: list[LoadRow] = []
        self.told = Told()

    async def run(self, start_s: float) -> list[LoadRow]:
        """Send everything and wait for its end. start_s: of the schedule, on perf_counter."""
        self._start_s = start_s
        if not self._job.planned:
            return []
        self._loop.call_later(max(0.0, start_s - perf_counter()), self._pump)
        teller = self._loop.create_task(self._tell())
        await self._all_over.wait()
        teller.cancel()
        for connection in self._idle:
            connection.leave("")
        return self.rows

    def _pump(self) -> None:
        planned = self._job.planned
        while self._next < len(planned) and planned[self._next].at_s <= perf_counter() - self._start_s:
            self._start(planned[self._next], self._requests[self._next])
            self._next += 1
        if self._next < len(planned):
            wait_s = planned[self._next].at_s - (perf_counter() - self._start_s)
            self._loop.call_later(max(0.0, wait_s), self._pump)

    def _start(self, planned: Planned, request: bytes) -> None:
        endpoint = self._job.endpoint
        expected = None
        if endpoint.checks_text:
            expected = "".join(map(chunk, range(planned.num_tokens)))
        exchange = Exchange(_row(planned, endpoint.arm), request, expected, self._start_s)
        exchange.started()
        self.rows.append(exchange.row)
        self.told.sent += 1
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self.told.in_flight += 1
                self._begin(connection, exchange)
                return
        if self.told.in_flight >= self._max_open:
            exchange.row.outcome, exchange.row.code = "unsent", "generator_full"
            self._count(exchange.row)
            return
        self.told.in_flight += 1
        task = self._loop.create_task(self._connect(exchange))
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, exchange: Exchange) -> None:
        own = (self._job.address, 0) if self._job.address else None
        try:
            async with asyncio.timeout(self._job.patience_s):
                _, connection = await self._loop.create_connection(
                    lambda: Connection(self._ended), "127.0.0.1", self._job.endpoint.port, local_addr=own
                )
        except (OSError, TimeoutError):
            exchange.finish("no_connection")
            self._over(exchange)
            return
        self._begin(connection, exchange)

    def _begin(self, connection: Connection, exchange: Exchange) -> None:
        connection.begin(exchange)
        left_s = self._job.patience_s - (exchange.row.sent_s - exchange.row.intended_s)
        self._loop.call_later(max(0.0, left_s), self._lose_patience, connection, exchange)

    def _lose_patience(self, connection: Connection, exchange: Exchange) -> None:
        if not exchange.is_over:
            connection.leave("out_of_patience")

    def _ended(self, connection: Connection, exchange: Exchange, is_reusable: bool) -> None:
        if is_reusable:
            self._idle.append(connection)
        self._over(exchange)

    def _over(self, exchange: Exchange) -> None:
        self.told.in_flight -= 1
        self._count(exchange.row)

    def _count(self, row: LoadRow) -> None:
        if row.is_complete:
            self.told.completed += 1
        elif row.outcome in {"rejected", "evicted"}:
            self.told.refused += 1
        else:
            self.told.failed += 1
        self._num_left -= 1
        if not self._num_left:
            self._all_over.set()

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(TELL_S)
            print(msgspec.json.encode(self.told).decode(), flush=True)


def _row(planned: Planned, arm: str) -> LoadRow:
    return LoadRow(
        arm=arm,
        phase=planned.phase,
        number=planned.number,
        source=planned.source,
        tenant=planned.tenant,
        priority=planned.priority,
        is_counted=planned.is_counted,
        intended_s=round(planned.at_s, 6),
    )


def max_open() -> int:
    """Connections this process may hold. The soft limit of open files is raised to the hard one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return max(64, hard - SPARE_FILES)


async def _main(job: Job, out: Path) -> None:
    sender = Sender(job, max_open())
    gc.collect()
    gc.disable()  # a collection is lateness; the process lives for one run
    print("ready", flush=True)
    start_s = float(await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline))
    rows.write(out, await sender.run(start_s))
    print(msgspec.json.encode(sender.told).decode(), flush=True)


if __name__ == "__main__":
    uvloop.run(_main(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job), Path(sys.argv[2])))
