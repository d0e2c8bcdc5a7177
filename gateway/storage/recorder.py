"""Receipts and usage: soon into Redis (so that any worker can show them), in batches into SQL (the truth).

What nobody is billed for goes into SQL alone: in a flood those are nearly all, and few of them are ever asked for.
`record` never blocks and never raises. While SQL is away entries wait in memory up to MAX_WAITING; what does not
fit is counted as dropped, never silently lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import UpstreamUnavailable
from gateway.metrics import Metrics
from gateway.shown import SharedPassages
from gateway.storage import ledger
from gateway.storage.database import Database
from gateway.types import Receipt, Tenant

log = logging.getLogger("tidegate.recorder")

MAX_WAITING = 5_000  # at about 10 KB each
MAX_RECENT = 1024
MAX_STORED = 20_000
BATCH = 500
FLUSH_EVERY_S = 0.05
UNBILLED_EVERY_S = 0.5  # what nobody is billed for waits longer: a flood of refusals costs few transactions
RETRY_EVERY_S = 1.0
REDIS_TTL_S = 600
REDIS_TIMEOUT_S = 0.2  # never on an answer's path: only receipts themselves wait for Redis

_encode = msgspec.json.Encoder().encode


class Recorder:
    def __init__(self, database: Database, redis: Redis, metrics: Metrics) -> None:
        self._database, self._redis, self._metrics = database, redis, metrics
        self._waiting: deque[ledger.LedgerEntry] = deque()  # for SQL
        self._unpublished: list[tuple[str, bytes]] = []  # for Redis
        self._recent: OrderedDict[str, tuple[bytes, SharedPassages | None]] = OrderedDict()  # of this worker
        self._stored: set[ledger.PassagesPlace] = set()  # passages that are in SQL for sure
        self._arrived = asyncio.Event()
        self._in_hurry = asyncio.Event()  # something of what waits is billed, or much waits
        self._flushing = asyncio.Lock()

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        """Keep a finished request. Bounded; never blocks."""
        key, passages = _key(tenant.tenant_id, receipt.id), None
        if isinstance(receipt.passages, SharedPassages):
            passages, receipt = receipt.passages, msgspec.structs.replace(receipt, passages=[])
        body = _encode(receipt)
        self._recent[key] = body, passages
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.dropped_records.inc()
            return
        entry = ledger.LedgerEntry(
            receipt_id=receipt.id,
            tenant_id=tenant.tenant_id,
            key_id=tenant.key_id,
            tier=receipt.tier,
            outcome=receipt.outcome.value,
            body_json=body.decode(),
            prompt_tokens=receipt.usage.prompt_tokens,
            completion_tokens=receipt.usage.completion_tokens,
            created_at=receipt.created,
            passages=passages,
        )
        self._waiting.append(entry)
        is_billed = ledger.is_billed(entry)
        if is_billed and passages is None:  # hits and refusals are many, and in SQL a moment later
            self._unpublished.append((key, body))
        if is_billed or len(self._waiting) >= BATCH:
            self._in_hurry.set()
        self._arrived.set()

    async def find(self, tenant_id: str, receipt_id: str) -> bytes | None:
        """The receipt's JSON, or None. Only the tenant's own.

        One that another worker has only just made may be on its way, so a miss is looked up again.
        """
        key = _key(tenant_id, receipt_id)
        if key in self._recent:
            body, passages = self._recent[key]
            return body if passages is None else ledger.with_passages(body, passages.json)
        found = await self._look_up(tenant_id, receipt_id)
        for wait_s in (2 * FLUSH_EVERY_S, UNBILLED_EVERY_S + 2 * FLUSH_EVERY_S):
            if found is None:
                await asyncio.sleep(wait_s)
                found = await self._look_up(tenant_id, receipt_id)
        return found

    async def _look_up(self, tenant_id: str, receipt_id: str) -> bytes | None:
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                found: Any = await self._redis.get(_key(tenant_id, receipt_id))
                if isinstance(found, bytes):
                    return found
        except (RedisError, OSError, TimeoutError):
            pass
        text = await asyncio.to_thread(self._find_in_sql, tenant_id, receipt_id)
        return None if text is None else text.encode()

    def _find_in_sql(self, tenant_id: str, receipt_id: str) -> str | None:
        with self._database.read() as conn:
            return ledger.get_receipt(conn, tenant_id, receipt_id)

    async def run(self) -> None:
        """Publish and flush in batches until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._in_hurry.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(UNBILLED_EVERY_S):
                        await self._in_hurry.wait()
            await self._publish()
            await asyncio.sleep(FLUSH_EVERY_S)  # let a batch gather: one transaction for many requests
            self._arrived.clear()
            self._in_hurry.clear()
            try:
                await self.flush()
            except Exception:
                log.exception("receipts wait for SQL: %d entries", len(self._waiting))
                await asyncio.sleep(RETRY_EVERY_S)
                self._in_hurry.set()
                self._arrived.set()

    async def _publish(self) -> None:
        """Show new receipts to the other workers. Redis away: they are in SQL a moment later."""
        batch, self._unpublished = self._unpublished, []
        if not batch:
            return
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                async with self._redis.pipeline(transaction=False) as pipe:
                    for key, body in batch:
                        pipe.set(key, body, ex=REDIS_TTL_S)
                    await pipe.execute()
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("%d receipts not published: %s", len(batch), error)

    async def flush(self) -> None:
        """Write everything that waits. Raises what SQL raises; nothing is lost then."""
        async with self._flushing:  # two at once would take the same entries out twice
            while self._waiting:
                batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
                await asyncio.to_thread(self._write, batch)
                for _ in batch:
                    self._waiting.popleft()

    def _write(self, batch: list[ledger.LedgerEntry]) -> None:
        """One transaction. An entry that SQL refuses for its own sake is dropped: it must not block others."""
        try:
            with self._database.write() as conn:
                ledger.record(conn, batch, self._stored)
        except (UpstreamUnavailable, OSError):
            raise
        except Exception:
            if len(batch) == 1:
                log.exception("receipt %s cannot be written", batch[0].receipt_id)
                self._metrics.dropped_records.inc()
                return
            for entry in batch:
                self._write([entry])
            return
        if len(self._stored) > MAX_STORED:
            self._stored.clear()
        self._stored.update(entry.place for entry in batch if entry.place)


def _key(tenant_id: str, receipt_id: str) -> str:
    return f"tidegate:receipt:{tenant_id}:{receipt_id}"
