"""Our own Redis from an end to the next start: the answers outlive it, nothing else does, and no step is unbounded."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.caching.names import entry_name
from gateway.caching.shared import SharedStore
from gateway.settings import Settings, load_settings
from gateway.storage.redis_client import connect_redis, redis_url
from gateway.supervise.credentials import secret, write_private
from gateway.supervise.redis_config import redis_folder, render_redis, snapshot_path
from gateway.supervise.redis_keeper import SAVE_LIMIT_S
from tests.contract.test_answer_stores import make
from tests.fakes.redis_process import RedisMissing, find_redis

SLACK_S = 3.0  # for Python to start and end on a busy machine
FOREIGN = ("tidegate:queue:{fast}:line", "tidegate:limits:workers", "tidegate:receipt:acme:1", "other")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    try:
        find_redis()
    except RedisMissing as missing:
        pytest.skip(str(missing))
    # The port of Redis follows from the public one.
    while True:
        made = load_settings({}, var=tmp_path / "var", port=free_port() // 2 + 10_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", made.redis_port))
            break
    for folder in (made.run_dir, redis_folder(made)):
        folder.mkdir(parents=True)
    write_private(made.run_dir / "redis.conf", render_redis(made, secret(made, "redis")))
    return made


def wait_for(condition: Callable[[], object], limit_s: float, what: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.01)


class Kept:
    """A keeper and its Redis."""

    def __init__(self, settings: Settings, output: Path) -> None:
        with output.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.supervise.redis_keeper"],
                env=dict(os.environ) | settings.environment(),
                stdout=stream,
                stderr=stream,
                umask=0o077,
            )
        self.client = Redis.from_url(redis_url(settings))

    @property
    def server(self) -> psutil.Process:
        return psutil.Process(self.process.pid).children()[0]

    def answers(self) -> bool:
        with suppress(RedisError, OSError):
            return bool(self.client.ping())
        return False

    def stop(self) -> float:
        """SIGTERM; the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SAVE_LIMIT_S + SLACK_S) == 0
        return time.monotonic() - started


@contextmanager
def kept(settings: Settings) -> Iterator[Kept]:
    """One that has read what there was to read."""
    log = settings.var / "keeper.log"
    log.unlink(missing_ok=True)
    redis = Kept(settings, log)
    try:
        wait_for(lambda: "Redis serves" in log.read_text("utf-8", "replace"), 20, "Redis serves")
        assert not snapshot_path(settings).exists()
        yield redis
    finally:
        redis.client.close()
        if redis.process.poll() is None:
            redis.process.kill()
        redis.process.wait(5)


async def remember(settings: Settings, name: str, tenant: str = "acme") -> str:
    """The key in Redis under which an answer now lies."""
    key, entry = make(name, tenant)
    client = connect_redis(settings)
    store = SharedStore(client, max_entries=100)
    store.put(entry)
    await store.settle()
    await client.aclose()
    return entry_name(key.tenant_id, key.digest)


def test_answers_outlive_an_orderly_end_and_nothing_else_does(settings: Settings) -> None:
    with kept(settings) as first:
        name = asyncio.run(remember(settings, "a"))
        for key in FOREIGN:
            first.client.set(key, "of yesterday")
        entry, life_s = first.client.get(name), first.client.ttl(name)
        assert entry
        books = set(first.client.keys("tidegate:answers:*"))
        first.stop()
    assert snapshot_path(settings).stat().st_mode & 0o077 == 0
    with kept(settings) as second:
        assert second.client.get(name) == entry
        assert life_s - 30 <= second.client.ttl(name) <= life_s
        assert set(second.client.keys("*")) == books


def test_a_redis_that_was_killed_is_cold_even_after_an_orderly_end_before(settings: Settings) -> None:
    """What was purged since must not come back."""
    with kept(settings) as first:
        asyncio.run(remember(settings, "a"))
        first.stop()
    with kept(settings) as second:
        assert second.client.dbsize()
        server = second.server
        second.process.kill()
        wait_for(
            lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE,
            5,
            "Redis is gone, too",
        )
    with kept(settings) as third:
        assert third.client.dbsize() == 0


def test_the_keeper_ends_with_its_redis(settings: Settings) -> None:
    with kept(settings) as redis:
        redis.server.kill()
        assert redis.process.wait(SLACK_S) == 1


@pytest.mark.parametrize("damage", [b"", b"REDIS9999", b"garbage" * 100], ids=["empty", "newer", "garbage"])
def test_a_snapshot_that_cannot_be_read_costs_one_start_and_is_not_tried_again(
    settings: Settings, damage: bytes
) -> None:
    snapshot_path(settings).write_bytes(damage)
    broken = Kept(settings, settings.var / "keeper.log")
    try:
        wait_for(lambda: not snapshot_path(settings).exists(), 20, "the snapshot is gone")
        with suppress(subprocess.TimeoutExpired):  # an empty one may do for an empty Redis
            broken.process.wait(SLACK_S)
    finally:
        broken.process.kill()
        broken.process.wait(5)
        broken.client.close()
    assert not snapshot_path(settings).exists()
    with kept(settings) as redis:
        assert redis.client.dbsize() == 0


def test_a_frozen_redis_does_not_hold_up_the_end(settings: Settings) -> None:
    with kept(settings) as redis:
        asyncio.run(remember(settings, "a"))
        server = redis.server
        server.suspend()
        redis.stop()
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    assert not snapshot_path(settings).exists()


def test_a_disk_without_room_does_not_hold_up_the_end(settings: Settings) -> None:
    with kept(settings) as redis:
        asyncio.run(remember(settings, "a"))
        redis.client.config_set(
            "dbfilename", "x" * 300 + ".rdb"
        )  # longer than any name: it cannot be written
        redis.stop()
    assert list(redis_folder(settings).glob("*.rdb")) == []


def test_answers_of_tenants_that_have_opted_out_are_not_taken_up(settings: Settings) -> None:
    with kept(settings) as first:
        names = [asyncio.run(remember(settings, "a", tenant)) for tenant in ("acme", "acme*", "rival")]
        first.stop()
    out = load_settings({}, var=settings.var, port=settings.port, cache_opt_out="acme*")
    with kept(out) as second:
        wait_for(lambda: not second.client.exists(names[1]), 5, "the answers of acme* are gone")
        assert second.client.keys("tidegate:answers:{acme\\*}*") == []
        assert second.client.exists(names[0], names[2]) == 2


def test_without_the_cache_nothing_is_kept(settings: Settings) -> None:
    with kept(settings) as first:
        asyncio.run(remember(settings, "a"))
        first.stop()
    off = load_settings({}, var=settings.var, port=settings.port, cache=False)
    with kept(off) as second:
        assert second.client.dbsize() == 0
        second.stop()
    assert not snapshot_path(settings).exists()


def test_many_answers_are_written_and_read_in_time(settings: Settings) -> None:
    """A quarter of what it may hold, so that a slow disk has the time, and a quarter of a busy day's receipts."""
    value = os.urandom(17_000)
    with kept(settings) as first:
        for start in range(0, 3_000, 500):
            with first.client.pipeline(transaction=False) as pipe:
                for number in range(start, start + 500):
                    pipe.set(entry_name("acme", str(number)), value, ex=3600)
                    pipe.set(f"tidegate:receipt:acme:{number}", "x")
                pipe.execute()
        stopped_s = first.stop()
        assert stopped_s < SAVE_LIMIT_S
    assert snapshot_path(settings).stat().st_size > 49_000_000
    with kept(settings) as second:
        assert second.client.dbsize() == 3_000
    said = (settings.var / "keeper.log").read_text()
    loaded_s = float(said.split("Redis serves after ")[1].split(" s")[0])
    print(f"written in {stopped_s:.2f} s, read in {loaded_s:.2f} s")
    assert loaded_s < SLACK_S
