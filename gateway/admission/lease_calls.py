"""One worker's trips to the store of limits. Accounts that ask at the same time share a trip, whoever they belong to.

Requests that wait go at once, together with those that come while a trip is under way. What can wait for a moment (the
next block, another try after a refusal) is gathered for LATER_S. Once a second one trip carries all that has news, and
that this worker lives. The last two have connections of their own, so that nobody waits behind hundreds of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, NamedTuple

from gateway.admission.limits import Ask, Budget, Meter
from gateway.admission.redis_leases import LeaseStore, Reply
from gateway.admission.standing import month_of
from gateway.errors import TidegateError, UpstreamUnavailable
from gateway.metrics import Metrics
from gateway.types import Tenant

log = logging.getLogger("tidegate.limits")

LATER_S = 0.15
MAX_IN_TRIP = 512  # accounts
# Accounts: with more of them only those that ask oftener hold anything ahead of their requests.
MAX_AHEAD = 512
MAX_TRIES = 3  # of one ask, while the store begins to count anew
SLICE = 32  # accounts that are worked on before the loop gets a turn
END_S = 0.5

# (tenant, key or "", first unix second) -> tokens that the ledger has since then
Spent = Callable[[str, str, int], Awaitable[int]]
Waiting = dict[str, asyncio.Future[None] | None]  # by account: the requests of a trip


class Plan(NamedTuple):
    """The meters of one caller, found once for many requests. until: unix seconds; then a month ends."""

    tenant: Tenant
    meters: list[Meter]
    until: float


class Account:
    """One tenant in this worker: its meters, and its one call to the store at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.meters: dict[str, Meter] = {}
        self.plans: dict[str, Plan] = {}  # by key id
        self.used_at = 0.0
        self.next: asyncio.Future[None] | None = None  # done when a call that begins from now on has ended
        self.is_busy = False  # a call is under way
        self.is_seeding = False  # the ledger is being read
        self.num_tries = 0

    @property
    def unseeded(self) -> list[Budget]:
        budgets = [meter for meter in self.meters.values() if isinstance(meter, Budget)]
        return [each for each in budgets if each.seed < 0 and not each.generation]


class LeaseCalls:
    """num_workers: on this machine; the store counts all of them. clock: monotonic seconds. wall: unix seconds, until
    the store has told its own."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        num_workers: int,
        spent: Spent,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store, self._spent, self._metrics = store, spent, metrics
        self._least_workers = self.num_workers = num_workers
        self._clock, self._offset = clock, wall() - clock()
        self.is_linked = True  # whether the store answered when it was asked last
        self.is_late = False  # a request has waited in vain: nobody else does before the next answer
        self._least = 1  # requests lately, from which on a limit is held ahead
        self._asking: dict[str, Account] = {}
        self._later: dict[str, Account] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._urgent: asyncio.Task[None] | None = None
        self._is_closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def now(self) -> float:
        """Unix seconds by the store's clock."""
        return self._clock() + self._offset

    def soon(self, account: Account) -> asyncio.Future[None]:
        """Done when a call that begins from now on has ended, well or not."""
        if account.next is None:
            account.next = asyncio.get_running_loop().create_future()
            if account.unseeded:
                self._spawn(self._seeded(account))
            else:
                self._ask(account)
        return account.next

    def later(self, account: Account) -> None:
        """A call within LATER_S, for which nobody waits."""
        self._later[account.name] = account
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LATER_S, self._gathered)

    async def tick(self, accounts: Iterable[Account]) -> None:
        """Tell that this worker lives, and bring those accounts up to date that have news; nothing else while the
        store is away."""
        due = [each for each in accounts if self._has_news(each)] if self.is_linked else []
        self._least = 1 + len(due) // MAX_AHEAD
        await self._talk(self._taken(due[:MAX_IN_TRIP]), is_tick=True, beats=True)
        for start in range(MAX_IN_TRIP, len(due), MAX_IN_TRIP):
            if self.is_linked:
                await self._talk(self._taken(due[start : start + MAX_IN_TRIP]), is_tick=True)

    async def close(self, accounts: Iterable[Account]) -> None:
        """Tell the store what was used last."""
        if self._timer is not None:
            self._timer.cancel()
        if self.is_linked and (calls := [self.soon(account) for account in accounts]):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait(calls, timeout=END_S)
        self._is_closed = True
        self._asking.clear()
        tasks = {*self._tasks, *([self._urgent] if self._urgent else [])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._store.close()

    # Who travels with whom.

    def _has_news(self, account: Account) -> bool:
        """Whether it should be told with the tick; who waits for the store goes sooner."""
        if account.next is not None:
            return False
        now = self.now()
        return any(meter.has_news(now) for meter in account.meters.values())

    def _ask(self, account: Account) -> None:
        self._asking[account.name] = account
        self._start()

    def _start(self) -> None:
        if self._is_closed:
            return  # a reading of the ledger that is cancelled would ask once more
        if self._asking and (self._urgent is None or self._urgent.done()):
            self._urgent = asyncio.get_running_loop().create_task(self._hurry(), name="limits")

    async def _hurry(self) -> None:
        while ready := self._taken(list(self._asking.values()))[:MAX_IN_TRIP]:
            for account in ready:
                del self._asking[account.name]
            await self._talk(ready)

    def _gathered(self) -> None:
        waiting, self._later, self._timer = list(self._later.values()), {}, None
        ready = self._taken([each for each in waiting if each.name not in self._asking])
        if self.is_linked and ready:
            self._spawn(self._talk(ready))

    @staticmethod
    def _taken(accounts: Sequence[Account]) -> list[Account]:
        """Those of which no call is under way."""
        return [account for account in accounts if not account.is_busy]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="limits")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # One trip.

    async def _talk(self, accounts: list[Account], *, is_tick: bool = False, beats: bool = False) -> None:
        """With its end all who waited for it are told, however it ended."""
        waiting: Waiting = {}
        for account in accounts:
            account.is_busy = True
            waiting[account.name], account.next = account.next, None
        try:
            await self._exchange(accounts, waiting, is_tick, beats)
        except UpstreamUnavailable as error:
            self._unlink(error)
        except Exception:
            log.exception("limits were not brought up to date")
            self.is_linked = False
        finally:
            for account in accounts:
                account.is_busy = False
            for future in waiting.values():
                _end(future)
            self._start()

    async def _exchange(self, accounts: list[Account], waiting: Waiting, is_tick: bool, beats: bool) -> None:
        told: list[tuple[Account, list[Meter], list[Ask]]] = []
        heard = 0
        try:
            for at, account in enumerate(accounts, 1):
                meters = list(account.meters.values())
                told.append((account, meters, self._asks(meters, is_tick)))
                if at % SLICE == 0:
                    await asyncio.sleep(0)
            self._metrics.limit_calls.inc()
            said = await self._store.sync(
                [(account.name, asks) for account, _, asks in told], self.num_workers, beats=beats
            )
            self._link(said.num_alive, [reply for reply in said.replies if reply is not None])
            for (account, meters, asks), reply in zip(told, said.replies, strict=True):
                heard += 1
                if reply is None:
                    _lose(meters)
                elif self._hear(meters, asks, reply):
                    account.num_tries = 0
                else:
                    self._again(account, waiting)
                if heard % SLICE == 0:
                    await asyncio.sleep(0)
        finally:
            for _, meters, _ in told[heard:]:
                _lose(meters)

    def _asks(self, meters: list[Meter], is_tick: bool) -> list[Ask]:
        now, workers, least = self.now(), self.num_workers, self._least
        return [meter.ask(now, is_tick=is_tick, workers=workers, least=least) for meter in meters]

    def _hear(self, meters: list[Meter], asks: list[Ask], reply: Reply) -> bool:
        """Whether the store counts all of them."""
        now, is_whole = self.now(), True
        for meter, ask, answer in zip(meters, asks, reply.answers, strict=True):
            meter.hear(ask, answer, reply.now_s, now)
            if answer.status != "ok":
                if ask.need:
                    meter.require(ask.need)
                meter.seed, is_whole = -1, False
        return is_whole

    def _again(self, account: Account, waiting: Waiting) -> None:
        """Another call, for which those who wait go on waiting; not for ever."""
        account.num_tries += 1
        if account.num_tries >= MAX_TRIES:
            account.num_tries = 0
            return
        first = waiting.pop(account.name)
        self.soon(account).add_done_callback(lambda _: _end(first))

    def _link(self, num_alive: int, replies: list[Reply]) -> None:
        """The store answers. A reply is late by its way, so only a clear difference moves our clock."""
        if replies:
            off_s = replies[-1].now_s - self.now()
            if abs(off_s) > 0.05:
                self._offset += off_s
        if num_alive:
            self.num_workers = max(self._least_workers, num_alive)
        if not self.is_linked:
            log.info("limits are shared again")
        self.is_linked, self.is_late = True, False
        self._metrics.limits_linked.set(1)

    def _unlink(self, error: TidegateError) -> None:
        if self.is_linked:
            log.warning("limits go on from leases and local shares: %s", error.detail or error)
        self.is_linked = False
        self._metrics.limits_linked.set(0)

    async def _seeded(self, account: Account) -> None:
        """Ask, once it is known what the ledger has of this month, for budgets that the store does not count yet."""
        account.is_seeding = True
        try:
            for meter in account.unseeded:
                scope = meter.name.partition("/")[0]
                key_id = "" if scope == "tenant" else scope
                try:
                    meter.seed = await self._spent(account.name, key_id, month_of(self.now()).begins_at)
                except TidegateError as error:
                    log.warning("the ledger does not tell what %s has used: %s", account.name, error)
        except Exception:
            log.exception("the ledger does not tell what %s has used", account.name)
        finally:
            account.is_seeding = False
            self._ask(account)


def _lose(meters: list[Meter]) -> None:
    for meter in meters:
        meter.lose()


def _end(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
