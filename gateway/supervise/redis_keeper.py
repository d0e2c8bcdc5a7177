"""`python -m gateway.supervise.redis_keeper`: the parent of our own redis-server.

Remembered answers outlive an orderly end, and nothing else does: a queue, a lease or a heartbeat of yesterday would be
taken for one of today. So at its end, when everybody else has gone, Redis is left with the answers alone and writes
them down; at the next start it reads them and the file goes, so that a Redis that died later comes back empty rather
than with what has been purged since. Each step has a bound, after which it is done without.

Leaves restarting to the supervisor: exit 0 only after SIGTERM. Redis dies with its keeper.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterable

from redis.asyncio import Redis
from redis.exceptions import RedisError

from gateway.caching.names import ANSWERS, index_name
from gateway.logs import set_up_logging
from gateway.settings import Settings, load_settings
from gateway.storage.redis_client import connect_redis
from gateway.supervise.binaries import find_redis
from gateway.supervise.redis_config import keeps_answers, redis_folder, snapshot_path
from gateway.supervise.triton_server import leash

LOAD_LIMIT_S = 10.0  # 256 MB take half a second
SAVE_LIMIT_S = 5.0  # and 256 MB of them two, on a disk that writes 200 MB a second
LOOK_S = 0.02
KEYS_AT_ONCE = 1000

_SPECIAL = re.compile(r"[*?\[\]^\\-]")  # in a pattern of Redis

log = logging.getLogger("tidegate.redis")


class Keeper:
    def __init__(self, settings: Settings) -> None:
        self._settings, self._snapshot = settings, snapshot_path(settings)
        self.stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process
        self._has_loaded = False

    async def run(self) -> int:
        """Until SIGTERM (returns 0) or Redis's death (returns 1)."""
        for draft in redis_folder(self._settings).glob("temp-*.rdb"):
            draft.unlink(missing_ok=True)
        if not keeps_answers(self._settings):
            self._snapshot.unlink(missing_ok=True)
        config = self._settings.run_dir / "redis.conf"
        argv = [str(find_redis(self._settings)), str(config)]
        self._process = await asyncio.create_subprocess_exec(*leash("KILL", argv))
        exited = asyncio.create_task(self._process.wait())
        stopped = asyncio.create_task(self.stopping.wait())
        loading = asyncio.create_task(self._load())
        try:
            await asyncio.wait({exited, stopped, loading}, return_when=asyncio.FIRST_COMPLETED)
            if loading.done() and loading.result():
                await asyncio.wait({exited, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.is_set():
                await self._end(exited)
                return 0
            self._forget_snapshot()
            return 1
        finally:
            self._kill()
            for task in (stopped, loading):
                task.cancel()
            await asyncio.gather(exited, stopped, loading, return_exceptions=True)

    async def _load(self) -> bool:
        """Wait until Redis has read the snapshot, which is then not needed any more. False = it takes too long."""
        redis, started = connect_redis(self._settings), time.monotonic()
        try:
            async with asyncio.timeout(LOAD_LIMIT_S):
                while not await _answers(redis):  # noqa: ASYNC110  it has no event for it
                    await asyncio.sleep(LOOK_S)
                self._has_loaded = True
                for tenant_id in self._settings.cache_opt_outs:
                    await _remove(redis, _SPECIAL.sub(r"\\\g<0>", index_name(tenant_id)) + "*")
                count = await redis.dbsize()
        except TimeoutError:
            log.warning("Redis has not read %s within %g s", self._snapshot, LOAD_LIMIT_S)
            return False
        except (RedisError, OSError) as error:  # it died meanwhile, which `run` sees
            log.warning("Redis does not answer any more: %s", error)
            return True
        finally:
            await redis.aclose()
        self._snapshot.unlink(missing_ok=True)
        log.info("Redis serves after %.2f s, with %d keys of the last run", time.monotonic() - started, count)
        return True

    def _forget_snapshot(self) -> None:
        """One that Redis could not start with is not tried a second time."""
        if self._snapshot.exists():
            log.warning("%s is of no use, so Redis starts with nothing", self._snapshot)
            self._snapshot.unlink(missing_ok=True)

    async def _end(self, exited: asyncio.Task[int]) -> None:
        """With the answers on disk, where that can be had in time."""
        if not self._has_loaded or not keeps_answers(self._settings):
            return  # a snapshot that was not read is still there, for the next start
        redis = connect_redis(self._settings)
        try:
            async with asyncio.timeout(SAVE_LIMIT_S):
                await _be_alone(redis)
                await _keep_only_answers(redis)
                await redis.shutdown(save=True)
                await asyncio.shield(exited)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("the answers are not kept for the next start: %r", error)
        finally:
            await redis.aclose()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


async def _answers(redis: Redis) -> bool:
    with contextlib.suppress(RedisError, OSError):
        return bool(await redis.ping())
    return False


async def _be_alone(redis: Redis) -> None:
    """Nobody else writes any more. The one connection that the pool has made stays ours."""
    await redis.config_set("requirepass", secrets.token_hex(16))
    for kind in ("normal", "pubsub"):
        await redis.client_kill_filter(_type=kind, skipme=True)


async def _keep_only_answers(redis: Redis) -> None:
    cursor = 0
    while True:
        cursor, found = await redis.scan(cursor, count=KEYS_AT_ONCE)
        await _unlink(redis, (name for name in found if not _bare(name).startswith(ANSWERS)))
        if not cursor:
            return


async def _remove(redis: Redis, pattern: str) -> None:
    cursor = 0
    while True:
        cursor, found = await redis.scan(cursor, match=pattern, count=KEYS_AT_ONCE)
        await _unlink(redis, found)
        if not cursor:
            return


async def _unlink(redis: Redis, names: Iterable[bytes | str]) -> None:
    if doomed := list(names):
        await redis.unlink(*doomed)


def _bare(name: bytes | str) -> str:
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else name


async def keep(settings: Settings) -> int:
    keeper = Keeper(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, keeper.stopping.set)
    return await keeper.run()


def main() -> int:
    settings = load_settings()
    set_up_logging(settings, "redis", sys.stdout)
    return asyncio.run(keep(settings))


if __name__ == "__main__":
    sys.exit(main())
