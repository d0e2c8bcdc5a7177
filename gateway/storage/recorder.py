"""Receipts and usage: at once into Redis (so that any worker can show them), in batches into SQL (the truth).

`record` never blocks and never raises. While SQL is away entries wait in memory up to MAX_WAITING; what does not
fit is counted as dropped, never silently lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.metrics import Metrics
from gateway.storage import ledger
from gateway.storage.database import Database
from gateway.types import Receipt, Tenant

log = logging.getLogger("tidegate.recorder")

MAX_WAITING = 50_000
BATCH = 500
FLUSH_EVERY_S = 0.05
RETRY_EVERY_S = 1.0
REDIS_TTL_S = 600
REDIS_TIMEOUT_S = 0.05  # a frozen Redis may cost an answer this much, no more

_encode = msgspec.json.Encoder().encode


class Recorder:
    def __init__(self, database: Database, redis: Redis, metrics: Metrics) -> None:
        self._database, self._redis, self._metrics = database, redis, metrics
        self._waiting: deque[ledger.LedgerEntry] = deque()
        self._arrived = asyncio.Event()

    def record(self, tenant: Tenant, receipt: Receipt) -> None:
        """Keep a finished request. Bounded; never blocks."""
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.dropped_records.inc()
            return
        self._waiting.append(
            ledger.LedgerEntry(
                receipt_id=receipt.id,
                tenant_id=tenant.tenant_id,
                key_id=tenant.key_id,
                tier=receipt.tier,
                outcome=receipt.outcome.value,
                body_json=_encode(receipt).decode(),
                prompt_tokens=receipt.usage.prompt_tokens,
                completion_tokens=receipt.usage.completion_tokens,
                created_at=receipt.created,
            )
        )
        self._arrived.set()

    async def publish(self, tenant: Tenant, receipt: Receipt) -> None:
        """Make a receipt readable on every worker before its client can ask. Redis away: SQL has it a moment later."""
        try:
            async with asyncio.timeout(REDIS_TIMEOUT_S):
                await self._redis.set(_key(tenant.tenant_id, receipt.id), _encode(receipt), ex=REDIS_TTL_S)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("receipt %s not published: %s", receipt.id, error)

    async def find(self, tenant_id: str, receipt_id: str) -> bytes | None:
        """The receipt's JSON, or None. Only the tenant's own."""
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
        """Flush in batches until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            await asyncio.sleep(FLUSH_EVERY_S)  # let a batch gather: one transaction for many requests
            try:
                await self.flush()
            except Exception:
                log.exception("receipts wait for SQL: %d entries", len(self._waiting))
                await asyncio.sleep(RETRY_EVERY_S)
                self._arrived.set()

    async def flush(self) -> None:
        """Write everything that waits. Raises what SQL raises; nothing is lost then."""
        while self._waiting:
            batch = [self._waiting[index] for index in range(min(BATCH, len(self._waiting)))]
            await asyncio.to_thread(self._write, batch)
            for _ in batch:
                self._waiting.popleft()

    def _write(self, batch: list[ledger.LedgerEntry]) -> None:
        with self._database.write() as conn:
            ledger.record(conn, batch)


def _key(tenant_id: str, receipt_id: str) -> str:
    return f"tidegate:receipt:{tenant_id}:{receipt_id}"
