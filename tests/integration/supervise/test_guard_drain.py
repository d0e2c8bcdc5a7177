"""The end of a real Triton whose callers are elsewhere: its guard goes by the work of its model's process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from gateway.errors import UpstreamError
from gateway.settings import Settings, load_settings
from gateway.supervise.assets import Assets
from gateway.supervise.guard import QUIET_S, Guard
from gateway.tensors import generate_model
from gateway.tiering.versions import versions_of
from gateway.triton import TritonClient
from tests.fakes.triton_process import FAKE_MODELS, free_port

pytestmark = [pytest.mark.usefixtures("triton_installed"), pytest.mark.timeout(120)]

DRAIN_S = 30.0
END_S = 6.0  # for Triton's own end, and a busy machine


class Replica:
    """A guard at work in this process, with its Triton; its address is not loopback, as in a cluster."""

    def __init__(self, settings: Settings, assets: Assets) -> None:
        self.guard = Guard(settings, 0, assets)
        self.client = TritonClient(f"127.0.0.1:{settings.triton_ports(0)[0]}")
        self._health = f"http://127.0.0.1:{settings.triton_ports(0)[3]}/"
        self.end = asyncio.create_task(self.guard.run())

    async def health(self) -> tuple[int, str, str]:
        """Status, state and reason, as a probe sees them."""
        async with httpx.AsyncClient() as client:
            answer = await client.get(self._health)
        return answer.status_code, answer.json()["state"], answer.json()["reason"]

    async def until_state(self, state: str, reason: str = "", limit_s: float = 60.0) -> None:
        deadline_s = time.monotonic() + limit_s
        while (self.guard.state, self.guard.reason) != (state, reason):
            assert time.monotonic() < deadline_s, (self.guard.state, self.guard.reason)
            assert not self.end.done()
            await asyncio.sleep(0.02)

    def write(self, num_tokens: int, every_ms: int) -> Writing:
        return Writing(self.client, {"num_tokens": num_tokens, "every_ms": every_ms})

    def stop(self) -> None:
        """What SIGTERM does."""
        self.guard.stopping.set()


class Writing:
    """One answer that is being written for a caller."""

    def __init__(self, client: TritonClient, knobs: dict[str, int]) -> None:
        self.num_tokens = 0
        self.ended_s = 0.0
        messages = json.dumps([{"role": "user", "content": json.dumps(knobs)}])
        self._stream = client.stream(generate_model("small"), {"messages": [messages.encode()]}, timeout_s=60)
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            async for _ in self._stream:
                self.num_tokens += 1
        finally:
            self.ended_s = time.monotonic()

    async def begun(self) -> None:
        while not self.num_tokens:
            assert not self.task.done()
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(folder: Path, drain_s: float) -> AsyncIterator[Replica]:
    tiers = folder / "tiers.toml"
    tiers.write_text(f'[small]\ncheckpoint = "{folder}"\nslots = 2\ncontext_tokens = 2048\n')
    repository = folder / "model_repository" / "tiers"
    repository.mkdir(parents=True)
    (repository / "generate").symlink_to(FAKE_MODELS / "slow_writer")
    settings = load_settings(
        {}, var=folder / "var", port=free_port(), part_host="0.0.0.0", auth="required", drain_s=drain_s,
        model_version="v7", tiers_file=str(tiers), triton_serves="small",
    )  # fmt: skip
    settings.run_dir.mkdir(parents=True)
    replica = Replica(settings, Assets(root=folder, documents_root=folder))
    try:
        await replica.until_state("ready")
        yield replica
    finally:
        await replica.client.close()
        replica.stop()
        await replica.end


async def test_an_answer_under_way_is_written_to_its_end(tmp_path: Path) -> None:
    """It takes longer than the pause by which an idle process is known, and no new balancer finds the replica."""
    async with running(tmp_path, DRAIN_S) as replica:
        writing = replica.write(num_tokens=50, every_ms=100)
        await writing.begun()
        replica.stop()
        await replica.until_state("draining", "stubs are at work")
        assert await replica.health() == (503, "draining", "stubs are at work")
        await writing.task
        assert writing.num_tokens == 50
        assert await replica.end == 0
        assert QUIET_S - 0.5 < time.monotonic() - writing.ended_s < QUIET_S + END_S


async def test_one_without_work_goes_after_the_pause(tmp_path: Path) -> None:
    async with running(tmp_path, DRAIN_S) as replica:
        assert await versions_of("127.0.0.1", replica.guard.health_port) == ["v7"]
        stopped_s = time.monotonic()
        replica.stop()
        assert await replica.end == 0
        assert QUIET_S < time.monotonic() - stopped_s < QUIET_S + END_S


async def test_an_answer_that_outlasts_the_drain_is_cut(tmp_path: Path) -> None:
    drain_s = QUIET_S + 1
    async with running(tmp_path, drain_s) as replica:
        writing = replica.write(num_tokens=1000, every_ms=100)
        await writing.begun()
        stopped_s = time.monotonic()
        replica.stop()
        assert await replica.end == 0
        assert drain_s < time.monotonic() - stopped_s < drain_s + END_S
        with pytest.raises(UpstreamError):
            await writing.task
        assert drain_s <= writing.ended_s - stopped_s
