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
from gateway.supervise.instance import all_ports

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


OTEL = {
    "plain": {},
    "with a key": {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20key,x-team=tides"},
    "all of them": {"OTEL_TRACES_SAMPLER": "always_on"},
    "by the trace": {"OTEL_TRACES_SAMPLER": "traceidratio"},
    "a share": {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.125"},
}


@pytest.mark.parametrize("environ", OTEL.values(), ids=OTEL)
@pytest.mark.parametrize("url", ["http://127.0.0.1:4318", "https://otel.example/x", "https://10.0.0.1"])
@pytest.mark.parametrize("rate", [0, 1000])
def test_envoy_accepts_what_traces_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], url: str, rate: int
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings, config = prepared(tmp_path, otlp_endpoint=url, edge_requests_per_s=rate)
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
        assert reply.op == "GE" or (reply.told_as or reply.status) in {reply.error.status, 431}


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


def test_further_envoy_processes_share_the_port_and_have_no_balancer(tmp_path: Path) -> None:
    settings, first = prepared(tmp_path, edge_processes=3)
    second = settings.run_dir / "envoy-1.yaml"
    second.write_text(render.render_envoy(settings, find_assets(), 1))
    for config in (first, second):
        command = [*render.envoy_command(settings, config), "--mode", "validate"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
    parsed = [yaml.safe_load(config.read_text()) for config in (first, second)]
    listeners = [[each["name"] for each in one["static_resources"]["listeners"]] for one in parsed]
    assert listeners == [["edge", "inner"], ["edge"]]
    assert [each["name"] for each in parsed[1]["static_resources"]["clusters"]] == ["gateway", "gateway_grpc"]
    for one in parsed:
        assert one["static_resources"]["listeners"][0]["enable_reuse_port"] is True
    ports = [one["admin"]["address"]["socket_address"]["port_value"] for one in parsed]
    assert ports == [settings.edge_admin_port(0), settings.edge_admin_port(1)]
    names = [program.name for program in render.programs(settings) if program.name.startswith("envoy")]
    assert names == ["envoy", "envoy-1", "envoy-2"]


def test_every_port_of_an_instance_is_its_own(tmp_path: Path) -> None:
    settings = load_settings(
        {}, var=tmp_path, port=20000, edge_processes=6, gateway_workers=8, triton_replicas=4
    )
    ports = all_ports(settings)
    assert len(set(ports.values())) == len(ports)


def test_a_single_envoy_keeps_the_port_to_itself(tmp_path: Path) -> None:
    _, config = prepared(tmp_path)
    (edge, _) = yaml.safe_load(config.read_text())["static_resources"]["listeners"]
    assert edge["enable_reuse_port"] is False


@pytest.mark.parametrize(
    ("rate", "processes", "bucket"),
    [
        (10_000, 1, {"per_fill": 1000, "interval_s": 0.1, "burst": 20_000}),
        (10_000, 2, {"per_fill": 500, "interval_s": 0.1, "burst": 10_000}),
        (1, 1, {"per_fill": 1, "interval_s": 1.0, "burst": 2}),
        (0, 1, None),
    ],
)
def test_the_outer_wall_is_shared_by_the_processes(
    tmp_path: Path, rate: int, processes: int, bucket: dict[str, float] | None
) -> None:
    settings = load_settings({}, var=tmp_path, edge_requests_per_s=rate, edge_processes=processes)
    assert render.edge_rate(settings) == bucket


def test_the_breaker_towards_triton_is_far_above_the_slots(tmp_path: Path) -> None:
    few = load_settings({}, var=tmp_path)
    assert render.max_calls(few) == 1024
    many = load_settings({}, var=tmp_path, fast_slots=1000, triton_replicas=4, gateway_workers=8)
    assert render.max_calls(many) == 2 * (4000 + many.deep_slots * 4 + many.retrieval_slots * 8)


@pytest.mark.parametrize("open_files", [1024, 4096, 20_000, 1_048_576])
@pytest.mark.parametrize("connections", [0, 100, 10**9])
def test_what_connections_and_streams_may_take_never_exceeds_the_open_files(
    open_files: int, connections: int
) -> None:
    shares = render.FileShares.of(open_files, connections)
    own = open_files - shares.connections - shares.streams - shares.idle
    assert own >= max(render.OWN_FILES, open_files // 64)
    assert shares.streams >= shares.connections, "every client of HTTP/1.1 gets his connection to a worker"
    assert shares.idle >= open_files // 64


def test_envoy_keeps_to_its_open_files(tmp_path: Path) -> None:
    def caps(edge_connections: int) -> tuple[int, dict[str, object]]:
        _, config = prepared(tmp_path / str(edge_connections), edge_connections=edge_connections)
        parsed = yaml.safe_load(config.read_text())
        monitor = parsed["overload_manager"]["resource_monitors"][0]["typed_config"]
        gateway = parsed["static_resources"]["clusters"][0]
        assert gateway["name"] == "gateway"
        return int(monitor["max_active_downstream_connections"]), gateway["circuit_breakers"]["thresholds"][0]

    for wanted in (0, 100, 10**9):
        shares = render.FileShares.of(render.max_open_files(), wanted)
        assert caps(wanted) == (
            shares.connections,
            {
                "max_connections": shares.streams + shares.idle,
                "max_pending_requests": shares.streams,
                "max_requests": shares.streams,
                "max_retries": 1000,
            },
        )
