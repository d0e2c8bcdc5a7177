"""Envoy's bootstrap and supervisord's configuration, judged by the real programs that read them."""

from __future__ import annotations

import base64
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from google.rpc import error_details_pb2, status_pb2
from supervisor.options import ServerOptions

from gateway import errors
from gateway.settings import Settings, load_settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.binaries import BinaryMissing, find_envoy

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)


def prepared(tmp_path: Path, **explicit: object) -> tuple[Settings, Path]:
    settings = load_settings({}, var=tmp_path / "var", port=20000, **explicit)
    for folder in (settings.run_dir, settings.log_dir):
        folder.mkdir(parents=True)
    config = settings.run_dir / "envoy.yaml"
    config.write_text(render.render_envoy(settings, find_assets()))
    return settings, config


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("workers", [1, 4])
def test_envoy_accepts_the_configuration(tmp_path: Path, replicas: int, workers: int) -> None:
    settings, config = prepared(tmp_path, triton_replicas=replicas, gateway_workers=workers)
    command = [*render.envoy_command(settings, config), "--mode", "validate"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "deprecated" not in (result.stdout + result.stderr).lower()


def clusters(config: Path) -> dict[str, list[dict[str, object]]]:
    """Endpoints by cluster name."""
    parsed = yaml.safe_load(config.read_text())["static_resources"]["clusters"]
    return {
        cluster["name"]: [
            entry["endpoint"] for entry in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        for cluster in parsed
    }


def test_every_worker_and_replica_is_an_endpoint(tmp_path: Path) -> None:
    _, config = prepared(tmp_path, triton_replicas=3, gateway_workers=2)
    found = clusters(config)
    ports = {
        name: [endpoint["address"]["socket_address"]["port_value"] for endpoint in endpoints]  # type: ignore[index]
        for name, endpoints in found.items()
    }
    assert ports == {
        "gateway": [20010, 20011],
        "gateway_grpc": [20600, 20601],
        "triton": [20300, 20304, 20308],
    }


def test_both_doors_of_a_worker_are_judged_by_its_http_side(tmp_path: Path) -> None:
    _, config = prepared(tmp_path, gateway_workers=2)
    asked = [endpoint["health_check_config"]["port_value"] for endpoint in clusters(config)["gateway_grpc"]]  # type: ignore[index]
    assert asked == [20010, 20011]


def test_replicas_are_judged_by_their_guards(tmp_path: Path) -> None:
    _, config = prepared(tmp_path, triton_replicas=2)
    asked = [endpoint["health_check_config"]["port_value"] for endpoint in clusters(config)["triton"]]  # type: ignore[index]
    assert asked == [20303, 20307]


def test_only_the_public_listener_leaves_loopback(tmp_path: Path) -> None:
    _, config = prepared(tmp_path, host="0.0.0.0", auth="required")
    parsed = yaml.safe_load(config.read_text())
    listeners = {
        each["name"]: each["address"]["socket_address"]["address"]
        for each in parsed["static_resources"]["listeners"]
    }
    assert listeners == {"edge": "0.0.0.0", "inner": "127.0.0.1"}
    assert parsed["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_envoys_own_errors_use_our_codes() -> None:
    for reply in render.LOCAL_REPLIES:
        assert issubclass(reply.error, errors.TidegateError)
        assert reply.op == "GE" or reply.status in {reply.error.status, 431}


@pytest.mark.parametrize("reply", render.LOCAL_REPLIES, ids=lambda reply: f"{reply.op}-{reply.status}")
def test_envoys_own_grpc_errors_have_our_details(reply: render.LocalReply) -> None:
    padding = "=" * (-len(reply.grpc_details) % 4)
    status = status_pb2.Status.FromString(base64.b64decode(reply.grpc_details + padding))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (status.code, status.message, info.reason) == (reply.grpc_code, reply.message, reply.code)
    assert any(detail.Unpack(retry) for detail in status.details) == bool(reply.retry_after_s)


def test_supervisord_reads_its_configuration(tmp_path: Path) -> None:
    settings, _ = prepared(tmp_path / "with space, and 100% 'quotes'", triton_replicas=2, gateway_workers=2)
    path = tmp_path / "supervisord.conf"
    path.write_text(render.render_supervisor(settings, "secret"))
    options = ServerOptions()
    options.realize(["-c", str(path), "-n"])
    processes = {
        process.name: process for group in options.process_group_configs for process in group.process_configs
    }
    assert sorted(processes) == ["envoy", "gateway-0", "gateway-1", "ingest", "redis", "triton-0", "triton-1"]
    assert processes["envoy"].stdout_logfile == str(settings.log_dir / "envoy.log")
    assert str(settings.run_dir / "envoy.yaml") in shlex.split(processes["envoy"].command)


def test_parts_stop_in_the_order_of_their_dependence(tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path)
    order = sorted(render.programs(settings), key=lambda program: -program.priority)
    kinds = list(dict.fromkeys(program.name.partition("-")[0] for program in order))
    assert kinds == ["ingest", "gateway", "envoy", "triton", "redis"]
