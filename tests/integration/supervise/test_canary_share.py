"""A tier's canary behind a real balancer: each conversation has its side, and the other side when its own is gone."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from gateway.settings import load_settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.binaries import BinaryMissing, find_envoy
from gateway.tiering.versions import Sides, Versions
from gateway.triton import MODEL_HEADER, PIN_HEADER
from tests.fakes.replica import Replica
from tests.integration.supervise.test_edge import port_with_room

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

PERCENT = 20
HOSTS = {"retrieval": "127.0.0.2", "small": "127.0.0.3", "canary": "127.0.0.4"}


class Balancer:
    def __init__(self, target: str, replicas: dict[str, Replica]) -> None:
        self.replicas = replicas
        self._call = grpc.aio.insecure_channel(target).unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )

    async def ask(self, model: str, pin: int | None = None) -> str:
        """Which replica answered."""
        before = {name: each.num_calls for name, each in self.replicas.items()}
        metadata = [(MODEL_HEADER, model), *([(PIN_HEADER, str(pin))] if pin is not None else [])]
        await self._call(b"", metadata=metadata, timeout=5)
        (name,) = [name for name, each in self.replicas.items() if each.num_calls > before[name]]
        return name


@pytest_asyncio.fixture
async def balancer(tmp_path: Path) -> AsyncIterator[Balancer]:
    port = port_with_room(383)
    settings = load_settings(
        {},
        var=tmp_path,
        port=port,
        triton_hosts=f"{HOSTS['retrieval']},small={HOSTS['small']}",
        canary_hosts=f"small={HOSTS['canary']}",
        canary_percent=PERCENT,
    )
    grpc_port, _, _, guard_port = settings.triton_ports(0)
    replicas = {
        name: Replica(grpc_port, guard_port, "headers message ok", host=host) for name, host in HOSTS.items()
    }
    for each in replicas.values():
        await each.start()
    config = tmp_path / "balancer.yaml"
    config.write_text(render.render_envoy(settings, find_assets(), role="balancer"))
    envoy = subprocess.Popen(render.envoy_command(settings, config, "balancer"))  # noqa: ASYNC220
    made = Balancer(settings.triton_target, replicas)
    try:
        deadline_s = time.monotonic() + 20
        for model in ("embed", "small"):
            while True:
                try:
                    await made.ask(model)
                    break
                except grpc.aio.AioRpcError:
                    assert time.monotonic() < deadline_s
                    await asyncio.sleep(0.05)
        yield made
    finally:
        envoy.kill()
        envoy.wait()
        for each in replicas.values():
            await each.stop()


async def test_conversations_are_shared_out_and_each_stays(balancer: Balancer) -> None:
    first = {pin: await balancer.ask("small", pin) for pin in range(100)}
    assert sorted(first.values()).count("canary") == PERCENT
    assert {pin: await balancer.ask("small", pin) for pin in range(100)} == first


async def test_a_worker_knows_which_side_the_balancer_takes(balancer: Balancer) -> None:
    async def told(host: str, port: int) -> list[str]:
        return [host]

    versions = Versions({"small": Sides(HOSTS["small"], HOSTS["canary"])}, percent=PERCENT, port=1, ask=told)
    await versions.look()
    for pin in range(2**32 - 100, 2**32):
        assert versions.met("small", pin).version == HOSTS[await balancer.ask("small", pin)]


async def test_other_models_never_meet_the_canary(balancer: Balancer) -> None:
    assert {await balancer.ask("embed", pin) for pin in range(100)} == {"retrieval"}


async def test_without_a_canary_its_share_goes_to_the_version_in_force(balancer: Balancer) -> None:
    sides = {pin: await balancer.ask("small", pin) for pin in range(100)}
    balancer.replicas["canary"].is_healthy = False
    (pin, *_) = [pin for pin, side in sides.items() if side == "canary"]

    deadline_s = time.monotonic() + 10
    while await balancer.ask("small", pin) != "small":  # the balancer asks the guard four times a second
        assert time.monotonic() < deadline_s
    assert {await balancer.ask("small", each) for each in range(100)} == {"small"}
