"""The two log stacks: they render, and Fluent Bit sends what our lines hold to where the stack listens."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.config.k8s.manifests import NAME, Doc, of_kind
from tests.config.k8s.test_flows import hears
from tests.config.k8s.test_safety import allows
from tests.config.k8s.test_schemas import VERSIONS, problems, standard_path

LOGGING = Path(__file__).parents[2] / "k8s" / "components" / "logging"
stacks = pytest.mark.parametrize("stack", ["loki", "elasticsearch"])


def rendered(stack: str) -> list[dict[str, Any]]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    argv = [kubectl, "kustomize", str(LOGGING / stack)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@stacks
def test_fluent_bit_sends_to_a_service_of_the_stack(stack: str) -> None:
    objects = rendered(stack)
    (output,) = yaml.safe_load((LOGGING / stack / "fluent-bit.yaml").read_text("utf-8"))["pipeline"][
        "outputs"
    ]
    services = {
        (each["metadata"]["name"], port["port"])
        for each in objects
        if each["kind"] == "Service"
        for port in each["spec"]["ports"]
    }
    assert (output["host"], output["port"]) in services
    assert {each["metadata"].get("namespace") for each in objects if each["kind"] != "Namespace"} <= {
        "tidegate-logging",
        None,
    }


@stacks
def test_every_selector_finds_its_pods_and_every_configuration_is_there(stack: str) -> None:
    objects = rendered(stack)
    kept = {each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"}
    workloads = [each for each in objects if each["kind"] in {"DaemonSet", "StatefulSet", "Deployment"}]
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in workloads]
    for each in workloads:
        wanted = each["spec"]["selector"]["matchLabels"]
        assert wanted.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        for volume in each["spec"]["template"]["spec"].get("volumes", []):
            assert volume.get("configMap", {}).get("name", next(iter(kept))) in kept
    for each in objects:
        if each["kind"] == "Service":
            assert any(each["spec"]["selector"].items() <= pod.items() for pod in labels)


@stacks
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_fits_its_schema(stack: str, version: str) -> None:
    found = [text for doc in rendered(stack) for text in problems(doc, standard_path(doc, version))]
    assert found == []


@stacks
def test_only_what_has_to_speak_to_each_other_may(stack: str) -> None:
    docs: tuple[Doc, ...] = tuple(rendered(stack))
    policies = {doc["metadata"]["name"]: doc["spec"] for doc in of_kind(docs, "NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ports = {
        doc["metadata"]["name"]: doc["spec"]["ports"][0]["port"] for doc in docs if doc["kind"] == "Service"
    }
    (output,) = yaml.safe_load((LOGGING / stack / "fluent-bit.yaml").read_text("utf-8"))["pipeline"][
        "outputs"
    ]
    needed = {("fluent-bit", output["host"])} | (
        {("kibana", "elasticsearch")} if "kibana" in ports else set()
    )
    for client in ("fluent-bit", *ports):
        for server, port in ports.items():
            if client != server:
                a, b = {NAME: client}, {NAME: server}
                is_open = allows(docs, a, b, port, "Egress") and allows(docs, b, a, port, "Ingress")
                assert is_open == ((client, server) in needed), (client, server)
    from_outside = {name for name, port in ports.items() if hears(docs, {NAME: name}, "monitoring", port)}
    assert from_outside == {"loki"} & ports.keys()  # Grafana is there


@stacks
def test_everybody_may_ask_for_names_and_only_fluent_bit_for_pods(stack: str) -> None:
    egress = {
        doc["metadata"]["name"]: (doc["spec"]["podSelector"], doc["spec"].get("egress", []))
        for doc in of_kind(tuple(rendered(stack)), "NetworkPolicy")
    }
    selector, (rule,) = egress["dns"]
    assert selector == {}
    assert {each["port"] for each in rule["ports"]} == {53}
    wide = {
        name
        for name, (_, rules) in egress.items()
        for rule in rules
        if {"ipBlock": {"cidr": "0.0.0.0/0"}} in rule["to"]
        and {each["port"] for each in rule["ports"]} == {443, 6443}
    }
    assert wide == {"fluent-bit"}


def test_what_tells_requests_apart_is_no_label_of_loki() -> None:
    (output,) = yaml.safe_load((LOGGING / "loki" / "fluent-bit.yaml").read_text("utf-8"))["pipeline"][
        "outputs"
    ]
    assert "request_id" not in output["labels"]
    assert "request_id=$request_id" in output["structured_metadata"]
