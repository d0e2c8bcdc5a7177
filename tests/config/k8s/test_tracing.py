"""The component `tracing` on top of each overlay: who is told where traces go, and who may reach it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.settings import load_settings
from gateway.tracing.endpoint import traces_url
from tests.config.k8s.manifests import (
    K8S,
    NAME,
    OVERLAYS,
    Doc,
    containers,
    label,
    matches,
    of_kind,
    pod_templates,
)


@pytest.fixture(params=OVERLAYS)
def docs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Doc, ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the overlays are not rendered")
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "tidegate",
        "resources": [os.path.relpath(K8S / "overlays" / request.param, tmp_path)],
        "components": [os.path.relpath(K8S / "components" / "tracing", tmp_path)],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    found = subprocess.run([kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return tuple(yaml.safe_load_all(found.stdout))


def endpoint(docs: tuple[Doc, ...]) -> str:
    (told,) = [doc for doc in of_kind(docs, "ConfigMap") if "TIDEGATE_OTLP_ENDPOINT" in doc.get("data", {})]
    return str(told["data"]["TIDEGATE_OTLP_ENDPOINT"])


def test_the_gateway_and_triton_are_told_where_traces_go(docs: tuple[Doc, ...]) -> None:
    (settings,) = [doc for doc in of_kind(docs, "ConfigMap") if "TIDEGATE_AUTH" in doc.get("data", {})]
    url = traces_url(load_settings({}, otlp_endpoint=endpoint(docs)), {})
    assert urlsplit(url).path == "/v1/traces"
    name = settings["metadata"]["name"]
    for where, template in pod_templates(docs):
        part = template["metadata"].get("labels", {}).get(NAME, "")
        if part != "gateway" and not part.startswith("triton-"):
            continue
        sources = [source for each in containers(template) for source in each.get("envFrom", [])]
        assert {"configMapRef": {"name": name}} in sources, where


def test_those_two_may_reach_the_collector_and_nobody_else(docs: tuple[Doc, ...]) -> None:
    address = urlsplit(endpoint(docs))
    namespace = str(address.hostname).split(".")[1]
    (policy,) = [doc for doc in of_kind(docs, "NetworkPolicy") if doc["metadata"]["name"] == "traces"]
    (rule,) = policy["spec"]["egress"]
    assert rule["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": address.port}]
    for doc in of_kind(docs, "Deployment", "StatefulSet"):
        labels = doc["spec"]["template"]["metadata"].get("labels", {})
        part = labels.get(NAME, "")
        is_traced = part == "gateway" or part.startswith("triton-")
        assert matches(policy["spec"]["podSelector"], labels) is is_traced, label(doc)
