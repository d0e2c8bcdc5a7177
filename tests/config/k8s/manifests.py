"""The overlays as kubectl renders them, and the walks through them that several tests need."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.name for path in (K8S / "overlays").iterdir() if path.is_dir())
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
Doc = dict[str, Any]

NAME = "app.kubernetes.io/name"


@functools.cache
def rendered(overlay: str) -> tuple[Doc, ...]:
    """Skips, and says so, where there is no kubectl."""
    return kustomized(K8S / "overlays" / overlay)


def label(doc: Doc) -> str:
    return f"{doc['kind']}/{doc['metadata']['name']}"


def of_kind(docs: tuple[Doc, ...], *kinds: str) -> list[Doc]:
    return [doc for doc in docs if doc["kind"] in kinds]


def config_map(docs: tuple[Doc, ...], key: str) -> Doc:
    """The one that has this key."""
    (found,) = [doc for doc in of_kind(docs, "ConfigMap") if key in doc.get("data", {})]
    return found


def pod_templates(docs: tuple[Doc, ...]) -> Iterator[tuple[str, Doc]]:
    """Every pod that an overlay can make: of workloads, and of the Jobs inside analyses."""
    for doc in of_kind(docs, *WORKLOADS):
        yield label(doc), doc["spec"]["template"]
    for doc in of_kind(docs, "AnalysisTemplate"):
        for metric in doc["spec"]["metrics"]:
            if job := metric["provider"].get("job"):
                yield label(doc), job["spec"]["template"]


def containers(template: Doc) -> list[Doc]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def matches(selector: Doc, labels: dict[str, str]) -> bool:
    """A Kubernetes label selector, or a Service's plain map."""
    plain = (
        selector
        if not {"matchLabels", "matchExpressions"} & selector.keys()
        else selector.get("matchLabels", {})
    )
    if any(labels.get(key) != value for key, value in plain.items()):
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In", each
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


def selected(docs: tuple[Doc, ...], selector: Doc) -> list[Doc]:
    """Pod templates that the selector picks."""
    return [one for _, one in pod_templates(docs) if matches(selector, one["metadata"].get("labels", {}))]


def rendered_with(overlay: str, component: str, folder: Path) -> tuple[Doc, ...]:
    """An overlay with a component that it has not by itself, as an operator would add it."""
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "tidegate",
        "resources": [os.path.relpath(K8S / "overlays" / overlay, folder)],
        "components": [os.path.relpath(K8S / "components" / component, folder)],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomized(folder)


def kustomized(folder: Path) -> tuple[Doc, ...]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: the overlays are not rendered")
    found = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return tuple(yaml.safe_load_all(found.stdout))
