"""Answers under way between workers: a worker that leads serves its readers elsewhere, one that follows gets the steps.

A follower asks for steps, a window at a time and ten times a second in any case; so a leader knows who still reads, a
slow follower slows nobody, and what was lost on the way is asked for again. Each worker has one channel in Redis for
all of it. A leader that is gone hears nothing, which Redis says at once; one that stands still is given up after a
second; a Redis that stands still after a tenth of one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.caching.claims import CHANNEL
from gateway.caching.flight import Reader
from gateway.pipeline.flight_mail import (
    Ask,
    Done,
    Gone,
    Leave,
    Mail,
    MailRefused,
    StepReader,
    Steps,
    StepWriter,
    addressed,
    opened,
    written,
)
from gateway.pipeline.shared_work import SharedWork, Step
from gateway.storage.redis_channel import follow_channel
from gateway.storage.redis_trips import RedisTrips
from gateway.types import Receipt

log = logging.getLogger("tidegate.cache")

ASK_EVERY_S = 0.1
MAX_UNANSWERED = 10  # asks in a row, then the leader is given up
MAX_SILENT = 20  # beats without an ask, then the follower is
WINDOW = 256  # steps that a follower has room for
STEPS_AT_MOST = 64  # in one message
MAX_IDLE = 10  # beats that a flight is kept after it has landed and its followers are done


class Lost(Exception):
    """The leader is gone, or has failed, or cannot be heard."""


class _Pump:
    """What one follower gets of one flight. It is a reader of that flight like any other, so it keeps it alive."""

    def __init__(self, shared: SharedWork, at: int, tell: Callable[[Mail], Awaitable[bool]]) -> None:
        self.reader: Reader[Step] = shared.flight.reader()
        self.reader.at, self.limit, self.num_silent = at, at, 0
        self._shared, self._tell = shared, tell
        self._has_room = asyncio.Event()
        self._writer = StepWriter()
        self.task = asyncio.get_running_loop().create_task(self._run())
        self.task.add_done_callback(lambda _: self.reader.leave())  # also of one that never began

    def asked(self, ask: Ask) -> None:
        self.num_silent = 0
        self.limit = max(self.limit, ask.at + ask.room)
        self._has_room.set()

    async def _run(self) -> None:
        try:
            await self._pass_on()
        except Exception as error:  # noqa: BLE001  the work's own: each follower tries for itself
            log.debug("a flight ended with %r", error)
            await self._tell(Gone())

    async def _pass_on(self) -> None:
        """Until the flight has ended, or the follower does not hear it."""
        reader, is_heard = self.reader, True
        while is_heard:
            while reader.at >= self.limit:
                self._has_room.clear()
                await self._has_room.wait()
            at, step = reader.at, await reader.next()
            if step is None:
                await self._tell(Done(at, self._shared.made))
                return
            steps = [self._writer.write(step)]
            while not reader.is_live and reader.at < self.limit and len(steps) < STEPS_AT_MOST:
                if (step := await reader.next()) is not None:
                    steps.append(self._writer.write(step))
            is_heard = await self._tell(Steps(at, steps))


class _Led:
    def __init__(self, shared: SharedWork) -> None:
        self.shared = shared
        self.pumps: dict[str, _Pump] = {}  # by follower
        self.has_landed = False
        self.num_idle = 0

    def beat(self) -> None:
        """Followers that have got all, or have not been heard of for too long, are given up."""
        for follower, pump in list(self.pumps.items()):
            pump.num_silent += 1
            if pump.task.done() or pump.num_silent > MAX_SILENT:
                del self.pumps[follower]
                pump.task.cancel()
        self.num_idle = self.num_idle + 1 if self.has_landed and not self.pumps else 0


class _Followed:
    """What has come of a flight that another worker leads."""

    def __init__(self) -> None:
        self.at = 0  # steps that have come
        self.granted = 0  # as many may come
        self.steps: deque[Step] = deque()
        self.made: Receipt | None = None
        self.is_lost = False
        self.num_unanswered = 0
        self.misses_some = False  # what came last does not follow on what came before
        self.news = asyncio.Event()
        self._reader = StepReader()

    @property
    def room(self) -> int:
        return max(0, WINDOW - len(self.steps))

    def hear(self, mail: Steps | Done | Gone) -> None:
        self.num_unanswered = 0
        self.misses_some = not isinstance(mail, Gone) and mail.at > self.at
        if self.misses_some:
            return
        match mail:
            case Steps():
                self._read(mail.steps[self.at - mail.at :])
            case Done():
                self.made = mail.made
            case Gone():
                self.is_lost = True
        self.news.set()

    def lose(self) -> None:
        self.is_lost = True
        self.news.set()

    def _read(self, steps: list[msgspec.Raw]) -> None:
        """One that cannot be read, or more of them than there was room for, is no leader of ours."""
        try:
            self.steps.extend(map(self._reader.read, steps))
        except MailRefused as refused:
            log.warning("a flight is left, it holds what is no step of ours: %s", refused)
            self.is_lost = True
        self.at += len(steps)
        self.is_lost |= len(self.steps) > 2 * WINDOW


class Relay:
    """One per worker. worker: its name among all."""

    def __init__(self, redis: Redis, trips: RedisTrips, worker: str = "") -> None:
        self.worker = worker or secrets.token_hex(8)
        self._redis, self._trips = redis, trips
        self._led: dict[str, _Led] = {}
        self._followed: dict[str, _Followed] = {}
        self._expected: dict[str, list[Ask | Leave]] = {}
        self._number = 0
        self._is_busy = asyncio.Event()
        self.is_listening = False

    @property
    def greeting(self) -> bytes:
        """What a leader is told of this worker when it finds that one leads: enough to be counted as a reader."""
        return written(Ask(self.worker))

    @property
    def num_followers(self) -> int:
        """Of flights that this worker leads."""
        return sum(len(led.pumps) for led in self._led.values())

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(follow_channel(self._redis, CHANNEL + self.worker, self._hear, self._begin))
            group.create_task(self._beat_for_ever())

    async def close(self) -> None:
        for led in self._led.values():
            for pump in led.pumps.values():
                pump.task.cancel()
        self._led.clear()
        await self._trips.close()

    def named(self) -> str:
        """A name for a flight that may come to lead. Others may hear of it sooner than we do: they are kept waiting."""
        self._number += 1
        flight = f"{self.worker}:{self._number}"
        self._expected[flight] = []
        return flight

    def dismiss(self, flight: str) -> None:
        """It does not lead."""
        for mail in self._expected.pop(flight):
            self._serve(flight, mail)

    def lead(self, flight: str, shared: SharedWork) -> None:
        """Let others read it, from now until some time after it has landed."""
        if not flight:
            return
        self._led[flight] = _Led(shared)
        self._is_busy.set()
        for mail in self._expected.pop(flight, []):
            self._serve(flight, mail)

    def leave(self, flight: str) -> None:
        """Another worker's, that counts this one among its readers."""
        self._tell(_worker_of(flight), flight, Leave(self.worker))

    def landed(self, flight: str) -> None:
        if (led := self._led.get(flight)) is not None:
            led.has_landed = True

    async def follow(self, flight: str, shared: SharedWork) -> Receipt:
        """Put the steps of another worker's flight into `shared` to the end, and return its receipt. Raises: Lost."""
        box = self._followed[flight] = _Followed()
        self._is_busy.set()
        self._ask(flight, box, again=True)
        try:
            while True:
                await box.news.wait()
                box.news.clear()
                while box.steps:
                    await shared.take(box.steps.popleft())
                    if box.at + box.room - box.granted >= WINDOW // 2:
                        self._ask(flight, box)
                if box.made is not None:
                    return box.made
                if box.is_lost:
                    raise Lost
        finally:
            if self._followed.get(flight) is box:
                del self._followed[flight]
                if box.made is None and not box.is_lost:
                    self.leave(flight)

    async def _begin(self) -> None:
        """Listening has begun, or begun anew: what was said in between is asked for again."""
        self.is_listening = True
        self._trips.post("PING")  # so that the first question finds a connection
        for flight, box in self._followed.items():
            self._ask(flight, box, again=True)

    def _ask(self, flight: str, box: _Followed, *, again: bool = False) -> asyncio.Future[Any]:
        box.granted = box.at + box.room
        return self._tell(_worker_of(flight), flight, Ask(self.worker, box.at, box.room, again))

    def _tell(self, worker: str, flight: str, mail: Mail) -> asyncio.Future[Any]:
        """The number of those who hear it, or an Exception, as its result."""
        return self._trips.post("PUBLISH", CHANNEL + worker, addressed(flight, mail))

    def _hear(self, data: Any) -> None:
        try:
            flight, mail = opened(data)
        except MailRefused as refused:
            log.warning("%s%s holds what is no message of ours: %s", CHANNEL, self.worker, refused)
            return
        if isinstance(mail, Ask | Leave):
            self._serve(flight, mail)
        elif (box := self._followed.get(flight)) is not None:
            is_known = box.misses_some
            box.hear(mail)
            if box.misses_some and not is_known:  # else it is asked for already, or with the next beat
                self._ask(flight, box, again=True)

    def _serve(self, flight: str, mail: Ask | Leave) -> None:
        if flight in self._expected:
            self._expected[flight].append(mail)
            return
        led = self._led.get(flight)
        if isinstance(mail, Leave):
            if led is not None and (pump := led.pumps.pop(mail.reader, None)) is not None:
                pump.task.cancel()
            return
        if led is None or not led.shared.flight.is_open:
            self._tell(mail.reader, flight, Gone())
            return
        pump = led.pumps.get(mail.reader)
        if pump is None or mail.again or pump.task.done():
            led.pumps[mail.reader] = self._pump(flight, led.shared, mail)
            if pump is not None:  # only now, so that the flight is never without a reader
                pump.task.cancel()
        else:
            self._tell(mail.reader, flight, Steps(pump.reader.at))
        led.pumps[mail.reader].asked(mail)

    def _pump(self, flight: str, shared: SharedWork, ask: Ask) -> _Pump:
        async def tell(mail: Mail) -> bool:
            return _is_heard(await self._tell(ask.reader, flight, mail))

        return _Pump(shared, min(ask.at, len(shared.flight.log)), tell)

    async def _beat_for_ever(self) -> None:
        while True:
            if not (self._led or self._followed):
                self._is_busy.clear()
            await self._is_busy.wait()
            await asyncio.sleep(ASK_EVERY_S)
            for flight, led in list(self._led.items()):
                led.beat()
                if led.num_idle > MAX_IDLE:
                    del self._led[flight]
            boxes = dict(self._followed)
            replies = [(box, self._ask(flight, box, again=box.misses_some)) for flight, box in boxes.items()]
            for box, reply in replies:
                box.num_unanswered += 1
                if not _is_heard(await reply) or box.num_unanswered > MAX_UNANSWERED:
                    box.lose()


def _is_heard(reply: Any) -> bool:
    return not isinstance(reply, Exception) and bool(reply)


def _worker_of(flight: str) -> str:
    return flight.partition(":")[0]
