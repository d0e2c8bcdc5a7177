"""One Redis channel, followed for ever: whatever happens to Redis, and told of every gap.

The library reconnects silently, and what was published meanwhile is lost; and a server that has vanished without a word
looks like a silent one. So whoever follows is told whenever listening begins anew, and silence is ended by a ping.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import RedisError

log = logging.getLogger("tidegate.redis")

RETRY_S = 1.0
CALL_S = 1.0
SILENCE_S = 10.0  # then a ping; as long again without an answer, and another connection is made


async def follow_channel(
    redis: Redis,
    name: str,
    hear: Callable[[Any], None],
    catch_up: Callable[[], Awaitable[None]],
    *,
    silence_s: float = SILENCE_S,
) -> None:
    """For ever. hear: called with the body of each message.

    catch_up: called when listening begins, at first and after each gap, to do without the messages that were missed. It
    bounds its own calls; where it raises RedisError, OSError or TimeoutError, it is tried again.
    """
    while True:
        try:
            async with redis.pubsub() as channel:
                async with asyncio.timeout(CALL_S):
                    await channel.subscribe(name)
                await _listen(channel, hear, catch_up, silence_s)
        except (RedisError, OSError, TimeoutError) as error:
            log.debug("%s is not followed: %s", name, error)
        await asyncio.sleep(RETRY_S)


async def _listen(
    channel: PubSub,
    hear: Callable[[Any], None],
    catch_up: Callable[[], Awaitable[None]],
    silence_s: float,
) -> None:
    """Raises: RedisError, OSError, TimeoutError when the connection is lost, or seems to be."""
    is_asked = False
    while True:
        async with asyncio.timeout(silence_s + CALL_S):  # it may connect anew, too
            message = await channel.get_message(timeout=silence_s)
        if message is None:
            if is_asked:
                raise TimeoutError("Redis does not answer")
            async with asyncio.timeout(CALL_S):
                await channel.ping()
        elif message["type"] == "subscribe":
            await catch_up()
        elif message["type"] == "message":
            hear(message["data"])
        is_asked = message is None
