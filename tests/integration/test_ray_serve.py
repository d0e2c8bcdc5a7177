"""A tier whose server is a real Ray Serve.

Runs where `scripts/tools ray-serve` has been run, or RAY_SERVE_PYTHON names a Python that has ray[serve].
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.errors import UpstreamUnavailable
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.tier_config import UpstreamTier
from gateway.types import Delta, Inquiry
from tests.fakes.engines import PASSAGES
from tests.integration.api.conftest import free_port

pytestmark = pytest.mark.timeout(180)
ROOT = Path(__file__).parents[2]
APP = ROOT / "tests" / "fakes" / "ray_app.py"
START_LIMIT_S = 120


def ray_python() -> str:
    """Skips, saying why, where there is none."""
    python = os.environ.get("RAY_SERVE_PYTHON") or str(ROOT / ".venv" / "ray-serve" / "bin" / "python")
    if not os.access(python, os.X_OK):
        pytest.skip(f"{python} is missing: run scripts/tools ray-serve, or set RAY_SERVE_PYTHON")
    found = subprocess.run(
        [python, "-c", "import ray.serve, fastapi"], capture_output=True, text=True, check=False, timeout=100
    )
    if found.returncode:
        pytest.skip(f"{python} cannot import ray.serve: {found.stderr.strip().splitlines()[-1]}")
    return python


@dataclass
class RayServe:
    url: str
    output: Path

    def told(self, word: str) -> int:
        return self.output.read_text("utf-8", "replace").count(f"tell {word}")


@pytest.fixture(scope="module")
def ray_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayServe]:
    python, folder, port = ray_python(), tmp_path_factory.mktemp("ray"), free_port()
    server = RayServe(f"http://127.0.0.1:{port}/v1", folder / "output")
    env = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    env |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONUNBUFFERED": "1", "RAY_DEDUP_LOGS": "0"}
    with server.output.open("wb") as output:
        process = subprocess.Popen(
            [python, str(APP), str(port)],
            stdout=output, stderr=subprocess.STDOUT, env=env, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            end = time.monotonic() + START_LIMIT_S
            while not server.told("ready"):
                text = server.output.read_text("utf-8", "replace")[-3000:]
                assert process.poll() is None, f"Ray Serve did not start:\n{text}"
                assert time.monotonic() < end, f"Ray Serve took too long:\n{text}"
                time.sleep(0.1)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)  # Ray takes its own processes with it
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(5)


@pytest_asyncio.fixture
async def generator(ray_serve: RayServe) -> AsyncIterator[UpstreamGenerator]:
    made = make(ray_serve, "sk-ray")
    yield made
    await made.close()


def make(ray_serve: RayServe, key: str) -> UpstreamGenerator:
    tier = UpstreamTier(name="ray", base_url=ray_serve.url, model="m", slots=16)
    return UpstreamGenerator(UpstreamClient(tier, key), tier)


async def write(generator: UpstreamGenerator, question: str = "What?") -> list[Delta]:
    return [delta async for delta in generator.answer(Inquiry(question=question), PASSAGES, timeout_s=30)]


async def test_ray_serve_is_a_tier(generator: UpstreamGenerator) -> None:
    deltas = await write(generator)
    assert (
        "".join(delta.text for delta in deltas)
        == "A tide gate holds back the surge [1]. Envoy balances gRPC [2]."
    )
    assert [each.passage for delta in deltas for each in delta.citations] == [1, 2]
    assert sum(1 for delta in deltas if delta.text) > 5  # it streams
    assert (deltas[-1].finish_reason, deltas[-1].num_input_tokens) == ("stop", 11)


async def test_sixteen_at_once_and_connections_kept(generator: UpstreamGenerator) -> None:
    for _ in range(2):
        answers = await asyncio.gather(*(write(generator) for _ in range(16)))
        assert {each[-1].finish_reason for each in answers} == {"stop"}


async def test_leaving_stops_the_replicas_work(generator: UpstreamGenerator, ray_serve: RayServe) -> None:
    left = ray_serve.told("left")
    answer: Any = generator.answer(Inquiry(question="Talk for long."), PASSAGES, timeout_s=30)
    async with aclosing(answer):
        async for delta in answer:
            if delta.text:
                break
    end = time.monotonic() + 8  # 600 words take 12 s
    while ray_serve.told("left") == left:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)


async def test_a_wrong_key_is_unavailable(ray_serve: RayServe) -> None:
    generator = make(ray_serve, "sk-wrong")
    with pytest.raises(UpstreamUnavailable):
        await write(generator)
    await generator.close()
