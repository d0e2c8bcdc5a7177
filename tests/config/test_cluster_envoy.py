"""The bootstraps of an Envoy in a container of its own, judged by the real Envoy."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.settings import SettingsError, load_settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.binaries import BinaryMissing, find_envoy

try:
    find_envoy(load_settings({}))
except BinaryMissing as problem:
    pytest.skip(str(problem), allow_module_level=True)

CLUSTER = {
    "auth": "required",
    "host": "0.0.0.0",
    "part_host": "0.0.0.0",
    "gateway_host": "gateway",
    "triton_hosts": "triton-retrieval,small=triton-small,large=triton-large",
    "canary_hosts": "small=triton-small-canary",
}


def bootstrap(tmp_path: Path, role: render.Role, **explicit: object) -> dict[str, Any]:
    settings = load_settings({}, var=tmp_path, **CLUSTER, **explicit)
    config = tmp_path / f"{role}.yaml"
    config.write_text(render.render_envoy(settings, find_assets(), role=role))
    command = [*render.envoy_command(settings, config, role), "--mode", "validate"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "deprecated" not in (result.stdout + result.stderr).lower()
    return dict(yaml.safe_load(config.read_text())["static_resources"])


def test_an_edge_has_the_workers_alone(tmp_path: Path) -> None:
    found = bootstrap(tmp_path, "edge")
    assert [each["name"] for each in found["listeners"]] == ["stats", "edge"]
    assert [each["name"] for each in found["clusters"]] == ["admin", "gateway", "gateway_grpc"]
    endpoint = found["clusters"][1]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    assert endpoint["address"]["socket_address"] == {"address": "gateway", "port_value": 8090}


def test_a_balancer_stays_on_loopback_and_has_a_cluster_for_each_side(tmp_path: Path) -> None:
    found = bootstrap(tmp_path, "balancer")
    listeners = {each["name"]: each["address"]["socket_address"] for each in found["listeners"]}
    assert listeners["inner"] == {"address": "127.0.0.1", "port_value": 8081}
    assert [each["name"] for each in found["clusters"]] == [
        "admin",
        "triton",
        "triton_small",
        "triton_small_stable_first",
        "triton_small_canary_first",
        "triton_small_canary",
        "triton_large",
    ]


@pytest.mark.parametrize("role", ["edge", "balancer"])
def test_both_know_the_collector_of_traces(tmp_path: Path, role: render.Role) -> None:
    found = bootstrap(tmp_path, role, otlp_endpoint="http://otel-collector.monitoring:4318")
    (collector,) = [each for each in found["clusters"] if each["name"] == "collector"]
    (entry,) = collector["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = {"address": "otel-collector.monitoring", "port_value": 4318}
    assert entry["endpoint"]["address"]["socket_address"] == address


def test_one_that_left_dns_gets_no_new_call(tmp_path: Path) -> None:
    for cluster in bootstrap(tmp_path, "balancer")["clusters"]:
        if cluster.get("cluster_type", {}).get("name") == "envoy.cluster.dns":
            assert cluster["ignore_health_on_host_removal"] is True


@pytest.mark.parametrize(
    "hosts", ["small=a", "a,small=b,small=c", "a,small=b c", "a,small=http://b", "a,b"], ids=lambda text: text
)
def test_hosts_of_another_shape_are_refused(hosts: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_TRITON_HOSTS"):
        load_settings({}, triton_hosts=hosts)


def test_parts_that_leave_loopback_need_keys() -> None:
    with pytest.raises(SettingsError, match=r"TIDEGATE_PART_HOST=0\.0\.0\.0 is not loopback"):
        load_settings({}, part_host="0.0.0.0")
