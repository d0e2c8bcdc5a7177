"""A new worker takes up what the shared level holds, the newest of each tenant first, so that another wording is met
soon after a restart. In the background, in small pages, and bounded: the rest is found when it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.caching.answers import Answers
from gateway.caching.entry import Entry, EntryRefused, decode_any
from gateway.caching.key import Key
from gateway.caching.names import entry_name, index_name

log = logging.getLogger("tidegate.cache")

MAX_ENTRIES = 4096  # of all tenants together
PAGE = 16  # decoded in two or three milliseconds, in which nobody else is served
PAUSE_S = 0.005
CALL_S = 1.0
TRY_EVERY_S = 0.5
TRIES = 60  # Redis may have started together with us
TENANTS_AT_ONCE = 500


async def refill(
    answers: Answers,
    redis: Redis,
    tenant_ids: Sequence[str],
    *,
    max_bytes: int,
    wall: Callable[[], float] = time.time,
) -> int:
    """max_bytes: of the worker's own level, beyond which nothing more is taken up. Returns how many were. Never raises
    for want of Redis."""
    for _ in range(TRIES):
        try:
            books = await _newest(redis, tenant_ids)
            break
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("the worker's answers cannot be taken up yet: %r", error)
            await asyncio.sleep(TRY_EVERY_S)
    else:
        return 0
    num_taken = 0
    try:
        while books and answers.num_bytes < max_bytes:
            for tenant_id, digests in list(books.items()):  # a page of each in turn
                page = [digests.pop() for _ in range(min(PAGE, len(digests)))]
                if not digests:
                    del books[tenant_id]
                num_taken += await _take_up(answers, redis, tenant_id, page, wall())
                await asyncio.sleep(PAUSE_S)
                if answers.num_bytes >= max_bytes:
                    break
    except (RedisError, OSError, TimeoutError) as error:
        log.debug("the rest of the worker's answers is not taken up: %r", error)
    log.info("took up %d answers that were remembered before", num_taken)
    return num_taken


async def _newest(redis: Redis, tenant_ids: Sequence[str]) -> dict[str, list[str]]:
    """The digests of each tenant that has some, the newest last; equally many of each."""
    sizes: dict[str, int] = {}
    for start in range(0, len(tenant_ids), TENANTS_AT_ONCE):
        some = tenant_ids[start : start + TENANTS_AT_ONCE]
        async with asyncio.timeout(CALL_S), redis.pipeline(transaction=False) as pipe:
            for tenant_id in some:
                pipe.zcard(index_name(tenant_id))
            sizes |= dict(zip(some, await pipe.execute(), strict=True))
    having = [tenant_id for tenant_id, size in sizes.items() if size][:MAX_ENTRIES]
    books: dict[str, list[str]] = {}
    for tenant_id in having:
        async with asyncio.timeout(CALL_S):
            found: Any = await redis.zrange(index_name(tenant_id), -(MAX_ENTRIES // len(having)), -1)
        books[tenant_id] = [each.decode() if isinstance(each, bytes) else each for each in found]
    return books


async def _take_up(answers: Answers, redis: Redis, tenant_id: str, digests: Sequence[str], now: float) -> int:
    wanted = [digest for digest in digests if answers.peek(tenant_id, digest) is None]
    if not wanted:
        return 0
    num_orders = answers.num_orders
    async with asyncio.timeout(CALL_S):
        values: Any = await redis.mget([entry_name(tenant_id, digest) for digest in wanted])
    if answers.num_orders != num_orders:  # to forget, maybe these: they are found when they are asked for
        return 0
    num_taken = 0
    for digest, value in zip(wanted, values, strict=True):
        entry = _sound(value, tenant_id, digest)
        if entry is not None and entry.expires > now:
            answers.adopt(Key(tenant_id, entry.scope, digest), entry)
            num_taken += 1
    return num_taken


def _sound(value: bytes | None, tenant_id: str, digest: str) -> Entry | None:
    """The entry, if it is the one that lies there."""
    try:
        entry = None if value is None else decode_any(value)
    except EntryRefused:
        return None
    return entry if entry is not None and (entry.tenant_id, entry.digest) == (tenant_id, digest) else None
