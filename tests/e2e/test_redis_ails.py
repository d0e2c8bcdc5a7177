"""Redis ails, and nobody notices: questions are answered meanwhile, remembered ones from memory, without an error."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import httpx
import psutil
import pytest
from redis import Redis

from gateway.storage.redis_client import redis_url
from gateway.supervise.redis_config import MEMORY_MB
from tests.e2e.conftest import Service, wait_for

REMEMBERED = "What happens when a Triton replica dies?"
AILING_S = 4.0
RESTART_LIMIT_S = 60.0
LONGEST_WAIT_S = (
    1.5  # of the one request that finds out, for its place in line: half a second and the machine's share
)


class Asked(NamedTuple):
    """One question. kind: hit or miss. failure: of its answer; empty = none. seconds: start on the monotonic clock,
    and how long it took."""

    kind: str
    started_s: float
    took_s: float
    failure: str


@contextmanager
def steady_questions(service: Service) -> Iterator[list[Asked]]:
    """A question whose answer is remembered, and ones that were never asked, without a pause from one thread each."""
    asked: list[Asked] = []
    over = threading.Event()
    numbers = itertools.count(time.monotonic_ns())

    def ask_for_ever(kind: str) -> None:
        with service.client() as client:
            while not over.is_set():
                text = REMEMBERED if kind == "hit" else f"Who counts replica number {next(numbers)}?"
                body = {"model": "fast", "messages": [{"role": "user", "content": text}]}
                started_s, failure = time.monotonic(), ""
                try:
                    reply = client.post("/v1/chat/completions", json=body)
                    if reply.status_code != 200:
                        failure = f"{reply.status_code} {reply.text}"
                    elif reply.headers["x-tidegate-cache"] != ("exact" if kind == "hit" else "miss"):
                        failure = f"{kind} was {reply.headers['x-tidegate-cache']}"
                except httpx.HTTPError as error:
                    failure = repr(error)
                asked.append(Asked(kind, started_s, time.monotonic() - started_s, failure))

    threads = [threading.Thread(target=ask_for_ever, args=(kind,)) for kind in ("hit", "miss")]
    for thread in threads:
        thread.start()
    try:
        yield asked
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def ailing_redis(service: Service, ailment: str) -> Iterator[None]:
    """Ill until the end of the block; killed, it is started again by its supervisor meanwhile."""
    server = psutil.Process(service.part_pid("redis")).children()[0]
    client = Redis.from_url(redis_url(service.settings))
    match ailment:
        case "killed":
            server.kill()
        case "frozen":
            server.suspend()
        case "full":
            client.config_set("maxmemory", 1)
    try:
        yield
    finally:
        match ailment:
            case "frozen":
                server.resume()
            case "full":
                client.config_set("maxmemory", f"{MEMORY_MB}mb")
        client.close()


@pytest.mark.parametrize("ailment", ["killed", "frozen", "full"])
def test_no_question_fails_or_hangs_while_redis_ails(service: Service, ailment: str) -> None:
    with service.client() as client:
        body = {"model": "fast", "messages": [{"role": "user", "content": REMEMBERED}]}

        def is_hit() -> bool:
            return client.post("/v1/chat/completions", json=body).headers["x-tidegate-cache"] == "exact"

        wait_for(is_hit, 10, "the answer is remembered")
    with steady_questions(service) as asked:
        time.sleep(AILING_S)  # the time is what is measured
        ill_s = time.monotonic()
        with ailing_redis(service, ailment):
            time.sleep(AILING_S)
        healed_s = time.monotonic()
        wait_for(lambda: service.part_pid("redis"), RESTART_LIMIT_S, "Redis is there again")
        time.sleep(AILING_S)
    assert [each.failure for each in asked if each.failure] == []
    for kind in ("hit", "miss"):
        well = [each.took_s for each in asked if each.kind == kind and each.started_s < ill_s]
        ill = [each.took_s for each in asked if each.kind == kind and ill_s <= each.started_s < healed_s]
        # The figure itself is in docs/cache.md (perf/cache/ailments.py); a machine that is busy adds to single ones.
        assert statistics.median(ill) <= 2 * statistics.median(well) + 0.02
        assert max(ill) <= max(well) + LONGEST_WAIT_S
