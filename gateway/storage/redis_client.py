"""The Redis connection every process uses. It connects within a bound; whoever calls bounds the call.

For calls the library's own bound will not do: it writes under `asyncio.wait_for`, which before Python 3.12 may swallow
the cancel of its caller (gh-86296). A cancelled task then goes on, and one that listens would do so for ever.
"""

from __future__ import annotations

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.settings import Settings

TIMEOUT_S = 1.0
MAX_CONNECTIONS = 128  # three of them for each tier, always


def redis_url(settings: Settings) -> str:
    """The URL in force: TIDEGATE_REDIS_URL, or our own server with the password of this var folder."""
    if settings.redis_url:
        return settings.redis_url
    secret = settings.var / "secrets" / "redis"
    password = secret.read_text().strip() if secret.exists() else ""
    account = f":{password}@" if password else ""
    return f"redis://{account}127.0.0.1:{settings.redis_port}/0"


def connect_redis(settings: Settings) -> Redis:
    """A pooled client; connects at the first command."""
    pool = BlockingConnectionPool.from_url(
        redis_url(settings),
        socket_connect_timeout=TIMEOUT_S,
        socket_timeout=None,
        max_connections=MAX_CONNECTIONS,
        timeout=TIMEOUT_S,  # for a free connection
        retry=Retry(NoBackoff(), 1),  # one reconnect after a restart of Redis, no more
        protocol=3,
    )
    return Redis.from_pool(pool)
