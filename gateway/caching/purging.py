"""What an operator asks of the shared cache: how much it holds of a tenant, and forgetting a part of that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from gateway.caching.entry import EntryRefused, decode_any
from gateway.caching.names import entry_name, index_name
from gateway.caching.shared import MAX_PURGES, PURGES, Purge, drop_entries

_PAGE = 200


async def held(redis: Redis, tenant_id: str) -> tuple[int, int]:
    """Answers of a tenant, and their bytes. Raises: RedisError, OSError."""
    count = num_bytes = 0
    for digests in await _pages(redis, tenant_id):
        async with redis.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.strlen(entry_name(tenant_id, digest))
            lengths = await pipe.execute(raise_on_error=False)
        sizes = [length for length in lengths if isinstance(length, int) and length]
        count, num_bytes = count + len(sizes), num_bytes + sum(sizes)
    return count, num_bytes


async def purge(redis: Redis, order: Purge) -> int:
    """Forget what the order means and tell the workers. What cannot be read goes too. Returns how many went.

    The workers are told before and after: an answer that one of them puts there in between is met the second time.
    Raises: RedisError, OSError.
    """
    await _tell(redis, order)
    num_gone = 0
    for digests in await _pages(redis, order.tenant_id):
        values = await redis.mget([entry_name(order.tenant_id, digest) for digest in digests])
        gone = [digest for digest, value in zip(digests, values, strict=True) if _is_meant(order, value)]
        if gone:
            num_gone += await drop_entries(redis, order.tenant_id, gone)
    await _tell(redis, order)
    return num_gone


async def _pages(redis: Redis, tenant_id: str) -> list[list[str]]:
    found: Any = await redis.zrange(index_name(tenant_id), 0, -1)
    digests: Sequence[str] = [each.decode() if isinstance(each, bytes) else each for each in found]
    return [list(digests[start : start + _PAGE]) for start in range(0, len(digests), _PAGE)]


def _is_meant(order: Purge, value: Any) -> bool:
    if value is None:
        return True  # its place in the index alone is left
    try:
        return order.means(decode_any(value))
    except EntryRefused:
        return True


async def _tell(redis: Redis, order: Purge) -> None:
    told = msgspec.json.encode(order)
    async with redis.pipeline(transaction=True) as pipe:
        pipe.rpush(PURGES, told)
        pipe.ltrim(PURGES, -MAX_PURGES, -1)
        pipe.publish(PURGES, told)
        await pipe.execute()
