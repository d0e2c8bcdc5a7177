"""Who may begin: reserves a request's share of its tenant's and its key's limits, and settles it at the end.

A request is decided by what this worker holds. Only where that is not enough it waits for the store, PATIENCE_S at
most; a store that is away is not waited for at all. Blocks are fetched behind the requests, those of all tenants in the
same trips (`lease_calls.py`).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import NamedTuple

from gateway.admission.lease_calls import Account, LeaseCalls, Plan, Spent
from gateway.admission.limits import Budget, Meter, Streams
from gateway.admission.redis_leases import LeaseStore
from gateway.admission.standing import BUDGET, REQUESTS, STREAMS, TOKENS, Month, Standing, month_of
from gateway.errors import QuotaExceeded, RateLimited
from gateway.metrics import Metrics
from gateway.storage.redis_trips import within
from gateway.types import Limits, Tenant

PATIENCE_S = 0.003
TICK_S = 1.0
PROBE_S = 0.5  # how often a store that is away is tried again
MAX_UNLIMITED = 10_000
IDLE_S = 120.0  # then a tenant is forgotten here


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
        self._defaults, self._metrics = defaults, metrics
        self._clock, self._patience_s = clock, patience_s
        self._calls = LeaseCalls(
            store, num_workers=num_workers, spent=spent, metrics=metrics, clock=clock, wall=wall
        )
        self._accounts: dict[str, Account] = {}
        self._unlimited: dict[
            tuple[str, str], Tenant
        ] = {}  # by tenant and key: as they were seen to have no limit
        self.now = self._calls.now  # unix seconds by the store's clock

    @property
    def is_linked(self) -> bool:
        """Whether the store answered when it was asked last."""
        return self._calls.is_linked

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
            self._calls.later(account)
        return Reservation(taken, self.now)

    async def _wait(self, account: Account, needs: list[Need]) -> None:
        """Until every need is covered. Raises: RateLimited when one is refused, by the store or by our share."""
        calls, has_asked = self._calls, False
        patience_until = self._clock() + self._patience_s
        while short := [need for need in needs if not need.meter.covers(need.amount, self.now())]:
            now = self.now()
            for meter, amount in short:
                if meter.is_refused(amount, now):
                    if not has_asked:
                        self._try_later(account, meter, amount)
                    raise self._refusal(meter, now)
            left_s = patience_until - self._clock()
            if not self.is_linked or calls.is_late or left_s <= 0:
                for meter, amount in short:
                    if not meter.share_covers(amount, now, calls.num_workers):
                        raise self._refusal(meter, now)
                return
            for meter, amount in short:
                meter.require(amount)
            has_asked = True
            try:
                await within(left_s, calls.soon(account))
            except TimeoutError:
                calls.is_late = not account.is_seeding

    def _try_later(self, account: Account, meter: Meter, amount: int) -> None:
        """Where refusals go on, the store is asked behind them, for all such tenants at once."""
        if self.is_linked:
            meter.wish(amount)
            self._calls.later(account)

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

    def _needs(self, tenant: Tenant, num_tokens: int) -> tuple[Account | None, list[Need]]:
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
            account = self._accounts.setdefault(tenant.tenant_id, account or Account(tenant.tenant_id))
            plan = self._plan(account, tenant, limits)
        account.used_at = now  # from here on it is not forgotten
        return account, [
            Need(meter, min(num_tokens, meter.limit) if meter.counts_tokens else 1) for meter in plan.meters
        ]

    def _plan(self, account: Account, tenant: Tenant, limits: Limits) -> Plan:
        month = month_of(self.now())
        meters = _meters(account, "tenant", limits, month)
        if tenant.key_id:
            meters += _meters(account, tenant.key_id, tenant.key_limits, month)
        plan = account.plans[tenant.key_id] = Plan(tenant, meters, month.ends_at)
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
            await asyncio.wait((self._calls.soon(account),), timeout=self._patience_s)
        return self.standing(tenant)

    def budget_left(self, tenant: Tenant) -> float:
        """The part of the month's tokens that is left, 0..1; 1 = no budget."""
        budget = self.standing(tenant).get(BUDGET)
        return 1.0 if budget is None else budget.remaining / budget.limit

    # Talking to the store.

    async def run(self) -> None:
        """Keep leases alive, give back what is not used, try a store that is away; until cancelled."""
        while True:
            was_linked = self.is_linked
            await self.tick()
            if self.is_linked and not was_linked:
                await self.tick()  # that it is back is known: tell what was used meanwhile
            await asyncio.sleep((TICK_S if self.is_linked else PROBE_S) * random.uniform(0.8, 1.2))  # noqa: S311

    async def tick(self) -> None:
        """Bring all leases up to date where the store answers; forget tenants that are gone."""
        await self._calls.tick(self._accounts.values())
        now = self.now()
        for name, account in list(self._accounts.items()):
            is_idle = now - account.used_at > IDLE_S and not account.is_busy and account.next is None
            if is_idle and not any(meter.has_news(now) or meter.lease for meter in account.meters.values()):
                del self._accounts[name]

    async def close(self) -> None:
        """Tell the store what was used last."""
        await self._calls.close(self._accounts.values())


def _meters(account: Account, scope: str, limits: Limits, month: Month) -> list[Meter]:
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
