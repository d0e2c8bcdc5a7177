"""The component `tracing` on top of each overlay: who is told where traces go, and who may reach it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gateway.settings import load_settings
from gateway.tracing.endpoint import traces_url
from tests.config.k8s.manifests import (
    NAME,
    OVERLAYS,
    Doc,
    config_map,
    containers,
    label,
    matches,
    of_kind,
    pod_templates,
    rendered_with,
)


@pytest.fixture(params=OVERLAYS)
def docs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Doc, ...]:
    return rendered_with(request.param, "tracing", tmp_path)


def endpoint(docs: tuple[Doc, ...]) -> str:
    return str(config_map(docs, "TIDEGATE_OTLP_ENDPOINT")["data"]["TIDEGATE_OTLP_ENDPOINT"])


def is_traced(part: str) -> bool:
    return part in {"edge", "gateway"} or part.startswith("triton-")


def test_envoy_the_gateway_and_triton_are_told_where_traces_go(docs: tuple[Doc, ...]) -> None:
    url = traces_url(load_settings({}, otlp_endpoint=endpoint(docs)), {})
    assert urlsplit(url).path == "/v1/traces"
    name = config_map(docs, "TIDEGATE_AUTH")["metadata"]["name"]
    for where, template in pod_templates(docs):
        part = template["metadata"].get("labels", {}).get(NAME, "")
        if not is_traced(part):
            continue
        sources = [source for each in containers(template) for source in each.get("envFrom", [])]
        assert {"configMapRef": {"name": name}} in sources, where


def test_those_may_reach_the_collector_and_nobody_else(docs: tuple[Doc, ...]) -> None:
    address = urlsplit(endpoint(docs))
    namespace = str(address.hostname).split(".")[1]
    (policy,) = [doc for doc in of_kind(docs, "NetworkPolicy") if doc["metadata"]["name"] == "traces"]
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": address.port}]
    for doc in of_kind(docs, "Deployment", "StatefulSet"):
        labels = doc["spec"]["template"]["metadata"].get("labels", {})
        is_let_out = matches(policy["spec"]["podSelector"], labels)
        assert is_let_out is is_traced(labels.get(NAME, "")), label(doc)
