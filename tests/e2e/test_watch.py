"""Debian's Prometheus and Alertmanager beside a real service: what they scrape, the rules they hold, an alert's way."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.supervise import watching
from gateway.supervise.instance import all_ports
from tests.config import monitoring
from tests.e2e.conftest import Launch, Service, wait_for

JOBS = {"tidegate-gateway", "tidegate-triton", "tidegate-envoy", "alertmanager"}


@pytest.fixture(scope="module")
def watched(launch: Launch) -> Service:
    if absent := watching.missing():
        pytest.skip(absent)
    return launch(watch=True)


def prometheus(service: Service, path: str, **query: str) -> Any:
    reply = httpx.get(
        f"http://127.0.0.1:{service.settings.prometheus_port}/api/v1/{path}", params=query, timeout=10
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]


def values(service: Service, query: str) -> list[float]:
    return [float(row["value"][1]) for row in prometheus(service, "query", query=query)["result"]]


def ask(service: Service) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is a tide gate?"}]}
    with service.client() as client:
        assert client.post("/v1/chat/completions", json=body).status_code == 200


def test_every_target_is_up(watched: Service) -> None:
    wait_for(lambda: len(values(watched, "up == 1")) == len(JOBS), 30, "four targets are up")
    found = {row["metric"]["job"] for row in prometheus(watched, "query", query="up == 1")["result"]}
    assert found == JOBS


def test_every_rule_is_loaded_and_evaluates(watched: Service) -> None:
    def groups() -> Any:
        return prometheus(watched, "rules")["groups"]

    wait_for(
        lambda: all(rule["health"] != "unknown" for g in groups() for rule in g["rules"]), 60, "rules ran"
    )
    loaded = {rule["name"]: rule for group in groups() for rule in group["rules"]}
    assert [rule["lastError"] for rule in loaded.values() if rule["health"] != "ok"] == []
    assert monitoring.rule_names(beside=watching.CLUSTER_RULES) <= set(loaded)


def test_questions_show_in_the_metrics_of_the_conventions(watched: Service) -> None:
    ask(watched)
    query = 'sum(gen_ai_server_time_to_first_token_seconds_count{gen_ai_operation_name="chat"})'
    wait_for(
        lambda: values(watched, query) and values(watched, query)[0] >= 1, 30, "the question was scraped"
    )
    assert values(watched, "sum(gen_ai_client_token_usage_count) > 0")
    assert values(watched, 'tidegate_part_up{part="redis"}') == [1.0]
    wait_for(lambda: values(watched, 'tidegate_part_up{part="sql"}') == [1.0], 10, "the database was asked")


def test_foreign_metrics_that_a_cpu_shows_have_their_kept_names(watched: Service) -> None:
    names = set(prometheus(watched, "label/__name__/values"))
    ours = {name for name in names if name.startswith(("nv_", "envoy_"))}
    asked = {name for rule, _ in monitoring.rules() for name in monitoring.metrics_of(rule["expr"])}
    used = {name for name in asked if name.startswith(("nv_inference", "envoy_"))}
    assert used <= monitoring.foreign()
    assert sorted(used - ours) == []
    assert values(watched, "tidegate_search_snapshot_refused") == [0.0]


def test_an_alert_goes_through_alertmanager_to_the_gateway_and_is_undone_when_it_is_over(
    watched: Service,
) -> None:
    """The alert is handed to Alertmanager as Prometheus would; from there on everything is the real way."""
    manager = f"http://127.0.0.1:{watched.settings.alertmanager_port}/api/v2/alerts"
    labels = {"alertname": "TidegateOverloaded", "severity": "page", "action": "shed", "step": "no_rerank"}
    firing = {"labels": labels, "annotations": {"summary": "a test"}}
    assert httpx.post(manager, json=[firing], timeout=10).status_code == 200
    key = (watched.var / "secrets" / "alerts-key").read_text().strip()
    headers = {"authorization": f"Bearer {key}"}

    def pinned() -> Any:
        return httpx.get(f"{watched.base_url}/admin/ladder", headers=headers, timeout=10).json()["pinned"]

    wait_for(lambda: pinned() == ["no_rerank"], 40, "the step is pinned")
    over = firing | {"endsAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 1))}
    assert httpx.post(manager, json=[over], timeout=10).status_code == 200
    wait_for(lambda: pinned() == [], 100, "the step is taken back")
    log = (watched.settings.log_dir / "gateway-0.log").read_text()
    assert re.search(r"alert=TidegateOverloaded status=firing action=shed target=no_rerank result=done", log)


def test_an_alert_restarts_a_part(watched: Service) -> None:
    manager = f"http://127.0.0.1:{watched.settings.alertmanager_port}/api/v2/alerts"
    before = watched.part_pid("ingest")
    labels = {"alertname": "TidegateIngestStopped", "severity": "page", "action": "restart", "part": "ingest"}
    assert httpx.post(manager, json=[{"labels": labels, "annotations": {}}], timeout=10).status_code == 200
    wait_for(lambda: watched.part_pid("ingest") not in {0, before}, 60, "another ingest worker runs")


def test_without_them_the_service_starts_and_says_so_in_one_sentence(launch: Launch, tmp_path: Path) -> None:
    service = launch(watch=True, environ={"PATH": str(_tools(tmp_path))})
    said = service.output.read_text()
    assert watching.missing() == "" or watching.missing() in said
    assert "prometheus-alertmanager): the service starts without them." in said
    assert json.loads((service.settings.run_dir / "instance.json").read_text())["ports"] == all_ports(
        service.settings
    )


def _tools(folder: Path) -> Path:
    """A PATH with a shell's everyday programs and no Prometheus."""
    for name in ("sh", "bash", "env", "cat", "ls", "gcc", "ld", "ldconfig", "uname"):
        for place in ("/usr/bin", "/bin", "/sbin", "/usr/sbin"):
            if (Path(place) / name).exists():
                (folder / name).symlink_to(Path(place) / name)
                break
    return folder
