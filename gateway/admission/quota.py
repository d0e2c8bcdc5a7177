"""Who may begin: reserves a request's share of its tenant's and its key's limits, and settles it at the end.

A request is decided by what this worker holds. Only where that is not enough it waits for the store, PATIENCE_S at
most; a store that is away is not waited for at all. Blocks are fetched behind the requests, by one call at a time for
each tenant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from gateway.admission.limits import Budget, Meter, Streams
from gateway.admission.redis_leases import LeaseStore, Reply
from gateway.admission.standing import BUDGET, REQUESTS, STREAMS, TOKENS, Month, Standing, month_of
from gateway.errors import QuotaExceeded, RateLimited, TidegateError, UpstreamUnavailable
from gateway.metrics import Metrics
from gateway.types import Limits, Tenant

log = logging.getLogger("tidegate.limits")

PATIENCE_S = 0.003
TICK_S = 1.0
PROBE_S = 0.5  # how often a store that is away is tried again
MAX_UNLIMITED = 10_000
IDLE_S = 120.0  # then a tenant is forgotten here

# (tenant, key or "", first unix second) -> tokens that the ledger has since then
Spent = Callable[[str, str, int], Awaitable[int]]


class Need(NamedTuple):
    meter: Meter
    amount: int


class Reservation:
    """What a request holds of its limits. Settle it exactly once, whatever happened."""

    def __init__(self, taken: list[tuple[Need, int]], clock: Callable[[], float]) -> None:
        self._taken, self._clock = taken, clock
        self._taken_at = clock()

    def settle(self, num_tokens: int) -> None:
        """num_tokens: what the request has really used, prompt and answer; 0 = nothing was sent."""
        now, taken = self._clock(), self._taken
        self._taken = []
        for (meter, amount), slot in taken:
            if isinstance(meter, Streams):
                meter.free(self._taken_at, now)
            elif meter.counts_tokens:
                meter.settle(slot, amount, num_tokens, now)


class _Plan(NamedTuple):
    """The meters of one caller, found once for many requests. until: unix seconds; then a month ends."""

    tenant: Tenant
    meters: list[Meter]
    until: float


class _Account:
    """One tenant in this worker: its meters, and its one call to the store at a time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.meters: dict[str, Meter] = {}
        self.plans: dict[str, _Plan] = {}  # by key id
        self.used_at = 0.0
        self.next: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None


class Limiter:
    """defaults: of tenants that have none of their own. num_workers: on this machine; the store counts all of them.

    clock: monotonic seconds. wall: unix seconds, until the store has told its own. patience_s: how long a request waits
    for the store at most.
    """

    def __init__(
        self,
        store: LeaseStore,
        *,
        defaults: Limits,
        num_workers: int,
        spent: Spent,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._store, self._defaults, self._spent, self._metrics = store, defaults, spent, metrics
        self._least_workers = self._num_workers = num_workers
        self._clock, self._offset = clock, wall() - clock()
        self._patience_s = patience_s
        self._accounts: dict[str, _Account] = {}
        self._unlimited: dict[
            tuple[str, str], Tenant
        ] = {}  # by tenant and key: as they were seen to have no limit
        self.is_linked = True  # whether the store answered when it was asked last
        self._is_late = False  # a request has waited in vain: nobody else does before the next answer

    def now(self) -> float:
        """Unix seconds by the store's clock."""
        return self._clock() + self._offset

    async def reserve(self, tenant: Tenant, num_tokens: int, *, is_stream: bool = True) -> Reservation:
        """Take one request, one stream (if it is one) and the estimated tokens, or nothing at all.

        Raises: RateLimited, QuotaExceeded.
        """
        account, needs = self._needs(tenant, num_tokens)
        if account is None:
            return Reservation([], self.now)
        if not is_stream:
            needs = [need for need in needs if not isinstance(need.meter, Streams)]
        await self._wait(account, needs)
        now = self.now()
        taken = [(need, need.meter.take(need.amount, now)) for need in needs]
        if self.is_linked and any(need.meter.is_low(now) for need in needs):
            self._call_soon(account)
        return Reservation(taken, self.now)

    async def _wait(self, account: _Account, needs: list[Need]) -> None:
        """Until every need is covered. Raises: RateLimited when one is refused, by the store or by our share."""
        patience_until = self._clock() + self._patience_s
        while short := [need for need in needs if not need.meter.covers(need.amount, self.now())]:
            now = self.now()
            for meter, amount in short:
                if meter.is_refused(amount, now):
                    raise self._refusal(meter, now)
            left_s = patience_until - self._clock()
            if not self.is_linked or self._is_late or left_s <= 0:
                for meter, amount in short:
                    if not meter.share_covers(amount, now, self._num_workers):
                        raise self._refusal(meter, now)
                return
            for meter, amount in short:
                meter.require(amount)
            answered, _ = await asyncio.wait((self._call_soon(account),), timeout=left_s)
            self._is_late = not answered

    def _refusal(self, meter: Meter, now: float) -> RateLimited:
        scope, _, kind = meter.name.partition("/")
        whose = "tenant" if scope == "tenant" else "key"
        self._metrics.limited.labels(kind.partition(":")[0], whose).inc()
        wait_s = meter.wait_s(now)
        text = {
            REQUESTS: f"This {whose} has used its {meter.limit} requests per minute",
            TOKENS: f"This {whose} has used its {meter.limit} tokens per minute",
            STREAMS: f"This {whose} has its {meter.limit} answers running at once",
        }
        if isinstance(meter, Budget):
            return QuotaExceeded(
                f"This {whose} has used its budget of {meter.limit} tokens for this month.",
                retry_after_s=wait_s,
            )
        return RateLimited(f"{text[kind]}; try again in {max(wait_s, 0.1):.1f} s.", retry_after_s=wait_s)

    # What a tenant and its key may use.

    def _needs(self, tenant: Tenant, num_tokens: int) -> tuple[_Account | None, list[Need]]:
        """The limits and what a request takes of each; one that is larger than a limit takes all of it."""
        if self._unlimited.get((tenant.tenant_id, tenant.key_id)) is tenant:
            return None, []
        account = self._accounts.get(tenant.tenant_id)
        plan = account.plans.get(tenant.key_id) if account is not None else None
        now = self.now()
        if account is None or plan is None or plan.tenant is not tenant or now >= plan.until:
            limits, of_key = tenant.limits.over(self._defaults), tenant.key_limits
            if limits.is_unlimited and of_key.is_unlimited:
                if len(self._unlimited) >= MAX_UNLIMITED:
                    self._unlimited.clear()
                self._unlimited[tenant.tenant_id, tenant.key_id] = tenant
                return None, []
            account = self._accounts.setdefault(tenant.tenant_id, account or _Account(tenant.tenant_id))
            plan = self._plan(account, tenant, limits)
        account.used_at = now  # from here on it is not forgotten
        return account, [
            Need(meter, min(num_tokens, meter.limit) if meter.counts_tokens else 1) for meter in plan.meters
        ]

    def _plan(self, account: _Account, tenant: Tenant, limits: Limits) -> _Plan:
        month = month_of(self.now())
        meters = _meters(account, "tenant", limits, month)
        if tenant.key_id:
            meters += _meters(account, tenant.key_id, tenant.key_limits, month)
        plan = account.plans[tenant.key_id] = _Plan(tenant, meters, month.ends_at)
        return plan

    # What a caller is told.

    def standing(self, tenant: Tenant) -> dict[str, Standing]:
        """By kind (requests, tokens, streams, budget), only those that are limited; as this worker knows it."""
        account, needs = self._needs(tenant, 1)
        if account is None:
            return {}
        now, found = self.now(), dict[str, Standing]()
        for meter, _ in needs:
            kind = meter.name.partition("/")[2].partition(":")[0]
            mine = Standing(meter.limit, min(meter.limit, meter.remaining(now)), meter.reset_s(now))
            if kind not in found or mine.remaining < found[kind].remaining:
                found[kind] = mine
        return found

    async def fresh_standing(self, tenant: Tenant) -> dict[str, Standing]:
        """As `standing`, with what the store knows where it answers in PATIENCE_S."""
        account, _ = self._needs(tenant, 1)
        if account is not None and self.is_linked:
            await asyncio.wait((self._call_soon(account),), timeout=self._patience_s)
        return self.standing(tenant)

    def budget_left(self, tenant: Tenant) -> float:
        """The part of the month's tokens that is left, 0..1; 1 = no budget."""
        budget = self.standing(tenant).get(BUDGET)
        return 1.0 if budget is None else budget.remaining / budget.limit

    # Talking to the store.

    def _call_soon(self, account: _Account, *, is_tick: bool = False) -> asyncio.Future[None]:
        """Done when a call that begins from now on has ended, well or not."""
        loop = asyncio.get_running_loop()
        if account.next is None:
            account.next = loop.create_future()
        waiting = account.next
        if account.task is None or account.task.done():
            account.task = loop.create_task(self._talk(account, is_tick), name="limits")
        return waiting

    async def _talk(self, account: _Account, is_tick: bool) -> None:
        while (waiting := account.next) is not None:
            account.next = None
            try:
                await self._sync(account, is_tick)
            except UpstreamUnavailable as error:
                self._unlink(error)
            except Exception:
                log.exception("the limits of %s were not brought up to date", account.name)
                self.is_linked = False
            finally:
                if not waiting.done():
                    waiting.set_result(None)

    async def _sync(self, account: _Account, is_tick: bool) -> None:
        """One call, and a second one for what the store has begun to count anew."""
        meters = list(account.meters.values())
        for _ in range(3):
            await self._seed(account.name, meters)
            sent_at = self.now()
            asks = [meter.ask(sent_at, is_tick=is_tick) for meter in meters]
            self._metrics.limit_calls.inc()
            try:
                reply = await self._store.sync(account.name, asks, self._num_workers)
            except BaseException:
                for meter in meters:
                    meter.lose()
                raise
            self.is_linked, self._is_late = True, False
            now = self._listen(reply)
            again = []
            for meter, ask, answer in zip(meters, asks, reply.answers, strict=True):
                meter.hear(ask, answer, reply.now_s, now)
                if answer.status != "ok":
                    if ask.need:
                        meter.require(ask.need)
                    meter.seed = -1
                    again.append(meter)
            meters = again
            if not meters:
                return

    def _listen(self, reply: Reply) -> float:
        """Go by the store's clock. A reply is late by its way, so only a clear difference moves ours."""
        off_s = reply.now_s - self.now()
        if abs(off_s) > 0.05:
            self._offset += off_s
        return self.now()

    async def _seed(self, tenant_id: str, meters: list[Meter]) -> None:
        """What the ledger has of this month, for budgets that the store does not count yet."""
        for meter in meters:
            if isinstance(meter, Budget) and meter.seed < 0 and not meter.generation:
                scope = meter.name.partition("/")[0]
                key_id = "" if scope == "tenant" else scope
                try:
                    meter.seed = await self._spent(tenant_id, key_id, month_of(self.now()).begins_at)
                except TidegateError as error:
                    log.warning("the ledger does not tell what %s has used: %s", tenant_id, error)

    def _unlink(self, error: TidegateError) -> None:
        if self.is_linked:
            log.warning("limits go on from leases and local shares: %s", error.detail or error)
        self.is_linked = False
        self._metrics.limits_linked.set(0)

    async def run(self) -> None:
        """Keep leases alive, give back what is not used, try a store that is away; until cancelled."""
        while True:
            was_linked = self.is_linked
            try:
                self._num_workers = max(self._least_workers, await self._store.beat())
                self.is_linked, self._is_late = True, False
                self._metrics.limits_linked.set(1)
                if not was_linked:
                    log.info("limits are shared again")
            except UpstreamUnavailable as error:
                self._unlink(error)
            self.tick()
            await asyncio.sleep((TICK_S if self.is_linked else PROBE_S) * random.uniform(0.8, 1.2))  # noqa: S311

    def tick(self) -> None:
        """Bring every tenant's leases up to date where the store answers; forget those that are gone."""
        now = self.now()
        for name, account in list(self._accounts.items()):
            if any(meter.has_news(now) for meter in account.meters.values()):
                if self.is_linked:
                    self._call_soon(account, is_tick=True)
            elif now - account.used_at > IDLE_S:
                del self._accounts[name]

    async def close(self) -> None:
        """Tell the store what was used last."""
        if self.is_linked:
            calls = [self._call_soon(account) for account in self._accounts.values()]
            if calls:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait(calls, timeout=0.5)
        for account in self._accounts.values():
            if account.task is not None:
                account.task.cancel()
        await self._store.close()


def _meters(account: _Account, scope: str, limits: Limits, month: Month) -> list[Meter]:
    """Those that the scope is limited by, the hardest first; made where the account has none yet."""
    wanted = (
        (BUDGET, limits.monthly_tokens),
        (REQUESTS, limits.requests_per_minute),
        (TOKENS, limits.tokens_per_minute),
        (STREAMS, limits.concurrent_streams),
    )
    meters = []
    for kind, limit in wanted:
        if not limit:
            continue
        name = f"{scope}/{kind}"
        meter = account.meters.get(name)
        if meter is None or (isinstance(meter, Budget) and meter.ends_at != month.ends_at):
            meter = account.meters[name] = _new_meter(name, kind, limit, month)
        meter.limit = limit
        meters.append(meter)
    return meters


def _new_meter(name: str, kind: str, limit: int, month: Month) -> Meter:
    if kind == BUDGET:
        return Budget(f"{name}:{month.name}", limit, month.ends_at)
    return Streams(name, limit) if kind == STREAMS else Meter(name, limit, counts_tokens=kind == TOKENS)
