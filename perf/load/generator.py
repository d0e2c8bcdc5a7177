"""Runs a schedule over several sender processes, shows how it goes, and brings their rows together."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import monotonic, perf_counter

import msgspec

from perf.load import rows
from perf.load.arrivals import Planned
from perf.load.client import Endpoint
from perf.load.rows import LoadRow
from perf.load.sender import Job, Told

PER_PROCESS = 2000  # sends a second that one process makes without being late, on a core of its own
MAX_OPEN_PER_PROCESS = 9000  # a process may hold 20,000 files; half leaves room for what closes slowly
START_IN_S = 0.3
PLAIN_PROGRESS_S = 5.0


class GeneratorFailed(RuntimeError):
    """A sender ended without its rows."""


def num_processes(planned: list[Planned], patience_s: float, wanted: int = 0) -> int:
    """As many as the busiest second needs, and as many connections as may be open at once. wanted: 0 = by need."""
    if wanted or not planned:
        return wanted or 1
    per_second: dict[int, int] = {}
    for each in planned:
        per_second[int(each.at_s)] = per_second.get(int(each.at_s), 0) + 1
    span_s = planned[-1].at_s - planned[0].at_s
    most_open = len(planned) * min(1.0, patience_s / span_s if span_s else 1.0)
    need = max(max(per_second.values()) / PER_PROCESS, most_open / MAX_OPEN_PER_PROCESS)
    return max(1, -int(-need // 1))


async def send(
    endpoint: Endpoint,
    planned: list[Planned],
    *,
    patience_s: float,
    processes: int = 0,
    label: str = "",
    beside: Callable[[float], Awaitable[None]] | None = None,
) -> list[LoadRow]:
    """Every planned request, sent on time. Returns the rows in the order of the schedule.

    beside: runs along with it, given the start (perf_counter); cancelled at the end.
    """
    count = num_processes(planned, patience_s, processes)
    with tempfile.TemporaryDirectory(prefix="tidegate-senders-") as folder:
        senders = [
            await _Sender.start(
                Path(folder), index, Job(endpoint, planned[index::count], patience_s, _address(index, count))
            )
            for index in range(count)
        ]
        try:
            await asyncio.gather(*(sender.ready() for sender in senders))
            start_s = perf_counter() + START_IN_S
            progress = asyncio.create_task(_show(senders, label, len(planned)))
            others = [progress] if beside is None else [progress, asyncio.create_task(_run(beside, start_s))]
            try:
                await asyncio.gather(*(sender.finish(start_s) for sender in senders))
            finally:
                for task in others:
                    task.cancel()
                await asyncio.gather(*others, return_exceptions=True)
        finally:
            for sender in senders:
                sender.kill()
        found = [row for sender in senders for row in rows.read(sender.out)]
    return sorted(found, key=lambda row: row.number)


def _address(index: int, count: int) -> str:
    """Of this machine; each process has one of its own where there are several, and with it ports of its own."""
    return f"127.0.0.{index + 1}" if count > 1 else ""


async def _run(beside: Callable[[float], Awaitable[None]], start_s: float) -> None:
    await beside(start_s)


class _Sender:
    def __init__(self, process: asyncio.subprocess.Process, out: Path) -> None:
        self._process = process
        self.out = out
        self.told = Told()

    @classmethod
    async def start(cls, folder: Path, index: int, job: Job) -> _Sender:
        path, out = folder / f"{index}.json", folder / f"{index}.jsonl.gz"
        path.write_bytes(msgspec.json.encode(job))
        argv = [sys.executable, "-m", "perf.load.sender", str(path), str(out)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, cwd=Path(__file__).parents[2], stdin=pipe, stdout=pipe, env=os.environ.copy()
        )
        return cls(process, out)

    async def ready(self) -> None:
        assert self._process.stdout is not None
        if (await self._process.stdout.readline()).strip() != b"ready":
            raise GeneratorFailed("a sender did not start; its own words are above")

    async def finish(self, start_s: float) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{start_s!r}\n".encode())
        async for line in self._process.stdout:
            self.told = msgspec.json.decode(line, type=Told)
        if await self._process.wait() or not self.out.exists():
            raise GeneratorFailed(f"a sender ended with {self._process.returncode}; its own words are above")

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


async def _show(senders: list[_Sender], label: str, total: int) -> None:
    """One line that is written over, or on a pipe a line every few seconds."""
    began, is_terminal = monotonic(), sys.stderr.isatty()
    try:
        while True:
            await asyncio.sleep(1.0 if is_terminal else PLAIN_PROGRESS_S)
            told = [sender.told for sender in senders]
            text = (
                f"  {label}: {monotonic() - began:.0f} s, sent {sum(t.sent for t in told)}/{total}, open "
                f"{sum(t.in_flight for t in told)}, completed {sum(t.completed for t in told)}, refused "
                f"{sum(t.refused for t in told)}, failed {sum(t.failed for t in told)}"
            )
            print(
                f"\r\x1b[K{text}" if is_terminal else text, end="" if is_terminal else "\n", file=sys.stderr
            )
            sys.stderr.flush()
    finally:
        if is_terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
