"""What a stopping worker leaves of its unfinished answers, in Redis for two minutes, so that another goes on with them.

Bytes by tenant and stream; knows nothing of what is in them.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.errors import UpstreamUnavailable

log = logging.getLogger("tidegate.handover")

KEPT_S = 120
CALL_S = 1.0


class Handovers:
    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis

    async def keep(self, tenant_id: str, stream_id: str, body: bytes) -> bool:
        """Whether it is kept."""
        try:
            async with asyncio.timeout(CALL_S):
                await self._redis.set(_key(tenant_id, stream_id), body, ex=KEPT_S)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("%s cannot be handed over: %s", stream_id, error)
            return False
        return True

    async def find(self, tenant_id: str, stream_id: str) -> bytes | None:
        """Raises: UpstreamUnavailable."""
        try:
            async with asyncio.timeout(CALL_S):
                found: bytes | None = await self._redis.get(_key(tenant_id, stream_id))
        except (RedisError, OSError, TimeoutError) as error:
            raise UpstreamUnavailable(
                "What is left of the stream cannot be read right now; try again in a moment.",
                code="redis_unavailable",
                detail=str(error),
            ) from error
        return found


def _key(tenant_id: str, stream_id: str) -> str:
    return f"tidegate:handover:{tenant_id}:{stream_id}"
