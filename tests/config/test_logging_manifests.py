"""The two log stacks: they render, and Fluent Bit sends what our lines hold to where the stack listens."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_what_tells_requests_apart_is_no_label_of_loki() -> None:
    (output,) = yaml.safe_load((LOGGING / "loki" / "fluent-bit.yaml").read_text("utf-8"))["pipeline"][
        "outputs"
    ]
    assert "request_id" not in output["labels"]
    assert "request_id=$request_id" in output["structured_metadata"]
