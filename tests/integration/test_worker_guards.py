"""A real worker process meets its own limits: too little memory, and an event loop that stands still."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from gateway.settings import Settings, load_settings
from tests.fakes.parts import PartProcess, running_part
from tests.fakes.redis_process import running_redis
from tests.integration.supervise.test_edge import port_with_room
from tests.integration.supervise.test_run_parts import migrate, run

pytestmark = pytest.mark.timeout(180)

MIB = 2**20
WITHIN_S = 15.0
MAX_HELD = 64  # bodies of 4 MiB
ROOM = 1.3  # of a worker's idle memory: 77 % of the limit are in use then
STANDS_STILL_S = 3.0
LADDER_LAG_S = 5.0  # 3 s of it are 0.6 units of pressure: one step, and no second one
STEP_BACK_S = 9.0  # the lag is remembered for two seconds at most, and calm has to last for five
STORES = "/v1/vector_stores"


@dataclass
class Worker:
    settings: Settings
    part: PartProcess
    key: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.worker_port(0)}"

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.part.process.pid)

    def post(self, path: str, body: object) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.post(self.url + path, json=body, headers=headers, timeout=20)

    def calls_itself_degraded(self) -> bool:
        return httpx.get(f"{self.url}/health/ready").headers.get("x-envoy-degraded") == "memory"

    def gauge(self, pattern: str) -> list[float]:
        text = httpx.get(f"{self.url}/metrics").text
        return [float(value) for value in re.findall(rf"^{pattern} (\S+)$", text, re.MULTILINE)]

    def half_a_request(self) -> socket.socket:
        """A body of which all but the last byte has been sent."""
        client = socket.create_connection(("127.0.0.1", self.settings.worker_port(0)), 20)
        size = self.settings.max_body_bytes
        head = (
            f"POST {STORES} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {self.key}\r\ncontent-length: {size}\r\n\r\n"
        )
        client.sendall(head.encode() + b" " * (size - 1))
        return client


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_redis(tmp_path_factory.mktemp("redis")) as redis:
        yield redis.url


@contextmanager
def worker(folder: Path, models_dir: Path, redis_url: str, **explicit: object) -> Iterator[Worker]:
    settings = load_settings(
        {}, var=folder, port=port_with_room(610), redis_url=redis_url, drain_s=1.0, **explicit
    )
    if not (folder / "models").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "models").symlink_to(models_dir)
        migrate(settings)
    made = run(["keys", "create", "--tenant", "harbour", "--name", "test"], settings.environment())
    with running_part("gateway", settings) as part:
        part.until_ready(f"http://127.0.0.1:{settings.worker_port(0)}/health/live")
        yield Worker(settings, part, made.stdout.strip())


def soon(is_so: Callable[[], object], what: str, within_s: float = WITHIN_S) -> float:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)
    return time.monotonic() - began


def test_a_worker_short_of_memory_refuses_new_work_finishes_the_old_and_recovers(
    tmp_path: Path, models_dir: Path, redis_url: str
) -> None:
    with worker(tmp_path, models_dir, redis_url) as idle:
        assert idle.post(STORES, {"name": "a"}).status_code == 200
        needed = idle.process.memory_info().rss
    limit_mb = math.ceil(needed * ROOM / MIB)
    with (
        worker(tmp_path, models_dir, redis_url, worker_memory_mb=limit_mb) as made,
        contextlib.ExitStack() as open_,
    ):
        assert made.post(STORES, {"name": "b"}).status_code == 200
        held: list[socket.socket] = []
        while not made.calls_itself_degraded():
            assert len(held) < MAX_HELD, f"{made.process.memory_info().rss // MIB} of {limit_mb} MiB"
            held.append(open_.enter_context(made.half_a_request()))
            time.sleep(0.26)  # it looks four times a second
        chat = {"model": "fast", "messages": [{"role": "user", "content": "What is a tide gate?"}]}
        for refused in (made.post(STORES, {"name": "c"}), made.post("/v1/chat/completions", chat)):
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
            assert 1 <= int(refused.headers["retry-after"]) <= 30
        assert made.gauge("tidegate_memory_share")[0] >= 0.85
        first = held[0]
        first.sendall(b" ")
        assert first.recv(4096).startswith(b"HTTP/1.1 400"), "what is open goes on: blanks are no JSON"
        for each in held:
            each.close()
        soon(lambda: not made.calls_itself_degraded(), "memory falls")
        assert made.post(STORES, {"name": "d"}).status_code == 200
        assert made.post("/v1/chat/completions", chat).json()["error"]["code"] != "overloaded"


def test_a_loop_that_stands_still_shows_as_lag_and_costs_a_step_until_it_has_run_well_for_a_while(
    tmp_path: Path, models_dir: Path, redis_url: str
) -> None:
    level = 'tidegate_ladder_level{band="interactive",tier="[a-z]+"}'
    with worker(tmp_path, models_dir, redis_url, ladder_lag_s=LADDER_LAG_S) as made:
        soon(lambda: made.gauge("tidegate_event_loop_lag_seconds")[0] < 0.5, "the start is over")
        soon(lambda: made.gauge(level) == [0, 0], "no step is in force")
        made.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        try:
            time.sleep(STANDS_STILL_S)
        finally:
            made.process.send_signal(signal.SIGCONT)
        stood_still_s = time.monotonic() - began
        lag_s = made.gauge("tidegate_event_loop_lag_seconds")[0]
        assert stood_still_s - 0.3 < lag_s < stood_still_s + 0.5
        soon(lambda: made.gauge(level) == [1, 1], "a step is taken on every tier", 5)
        down_s = soon(lambda: made.gauge(level) == [0, 0], "it is taken back", STEP_BACK_S)
        assert down_s > 4, "not before it has been calm for a while"
        assert made.gauge("tidegate_event_loop_lag_seconds")[0] < 0.5
