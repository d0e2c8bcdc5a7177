"""One answer being made, many readers: the first one's work is everybody's, and it lives as long as anybody reads.

The work runs in a task of its own and writes into a log. Each reader goes through the log at its own pace, from the
start, so a late one gets the replay and then what comes, and a slow one delays nobody. The work waits only when even
the fastest reader is far behind. It is cancelled when the last reader leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

Event = TypeVar("Event")

MAX_AHEAD = 256  # events between the work and its fastest reader


class Flight(Generic[Event]):
    """Made with a first reader, so that there is always one who can end it."""

    def __init__(self) -> None:
        self.log: list[Event] = []
        self._readers: set[Reader[Event]] = set()
        self._waiting: list[asyncio.Future[None]] = []  # readers at the end of the log
        self._room: asyncio.Future[None] | None = None  # what the work waits for
        self._error: Exception | None = None
        self._is_done = self._was_left = False
        self._task: asyncio.Task[None] | None = None

    @property
    def num_readers(self) -> int:
        return len(self._readers)

    @property
    def is_open(self) -> bool:
        """Whether one more may read it: it has neither failed nor been given up."""
        return self._error is None and not self._was_left

    def reader(self) -> Reader[Event]:
        reader = Reader(self)
        self._readers.add(reader)
        return reader

    def start(self, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """What the work raises every reader gets, after the events before."""
        self._task = asyncio.get_running_loop().create_task(self._run(work))
        return self._task

    def put(self, event: Event) -> None:
        self.log.append(event)
        self._wake()

    async def drain(self) -> None:
        """Wait while every reader is far behind."""
        while self._readers and len(self.log) - max(each.at for each in self._readers) >= MAX_AHEAD:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
            self._is_done = True
        except Exception as error:  # noqa: BLE001  every reader raises it where it stands
            self._error = error
        finally:
            self._wake()

    async def _next(self, at: int) -> Event | None:
        while at >= len(self.log):
            if self._error is not None:
                raise self._error
            if self._is_done:
                return None
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        return self.log[at]

    async def _leave(self, reader: Reader[Event]) -> None:
        if self._drop(reader) and self._task is not None:
            await asyncio.wait({self._task})  # what it held is given back before its last reader is gone

    def _drop(self, reader: Reader[Event]) -> bool:
        """True = that was the last one, and the work is cancelled."""
        self._readers.discard(reader)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._readers or self._is_done or self._error is not None or self._task is None:
            return False
        self._was_left = True
        self._task.cancel()
        return True

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.done():
                each.set_result(None)


class Reader(Generic[Event]):
    """Use as `async with`: leaving it is what lets the work end when nobody reads. at: events taken."""

    def __init__(self, flight: Flight[Event]) -> None:
        self._flight = flight
        self.at = 0

    @property
    def is_live(self) -> bool:
        """Whether all there is was taken."""
        return self.at == len(self._flight.log)

    async def next(self) -> Event | None:
        """The next event; None = the work is done. Raises: what the work raised."""
        event = await self._flight._next(self.at)
        if event is not None:
            self.at += 1
        return event

    def leave(self) -> None:
        """Read no more, without waiting for what that ends. May be said twice."""
        self._flight._drop(self)

    async def __aenter__(self) -> Reader[Event]:
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._flight._leave(self)
