"""What Argo CD would do with the overlays: the order of a first sync, and what the project lets it make."""

from __future__ import annotations

import pytest
import yaml  # type: ignore[import-untyped]

from tests.config.k8s.manifests import (
    K8S,
    NAME,
    OVERLAYS,
    Doc,
    label,
    of_kind,
    pod_templates,
    rendered,
    selected,
)

SYNC_WAVE, HOOK = "argocd.argoproj.io/sync-wave", "argocd.argoproj.io/hook"
# Of the kinds that the overlays use. Kustomize does not know the scope of custom ones.
WITHOUT_NAMESPACE = {
    "Namespace",
    "PriorityClass",
    "ClusterRole",
    "ClusterRoleBinding",
    "NodePool",
    "EC2NodeClass",
}


def wave(doc: Doc) -> int:
    return int(doc["metadata"].get("annotations", {}).get(SYNC_WAVE, "0"))


def named(docs: tuple[Doc, ...], kind: str, name: str) -> Doc:
    (found,) = [doc for doc in of_kind(docs, kind) if doc["metadata"]["name"] == name]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_tables_are_made_after_what_that_needs_and_before_what_needs_them(overlay: str) -> None:
    docs = rendered(overlay)
    job = named(docs, "Job", "migrate")
    assert job["metadata"]["annotations"][HOOK] == "Sync", "a PreSync hook comes before its own account"
    spec = job["spec"]["template"]["spec"]
    needed = [
        named(docs, "ServiceAccount", spec["serviceAccountName"]),
        named(docs, "PriorityClass", spec["priorityClassName"]),
    ]
    for doc in of_kind(docs, "StatefulSet", "Service"):
        if doc["metadata"]["name"] == "postgres":
            needed.append(doc)
            classes = [one["spec"]["priorityClassName"] for one in selected(docs, {NAME: "postgres"})]
            needed += [named(docs, "PriorityClass", name) for name in classes]
    assert max(map(wave, needed)) < wave(job)
    for doc in of_kind(docs, "Deployment", "Rollout"):
        assert wave(job) < wave(doc), label(doc)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_waits_in_an_early_wave_for_a_volume_of_a_later_one(overlay: str) -> None:
    """A claim that is bound on first use stays pending until its pod is there, and holds up its wave."""
    docs = rendered(overlay)
    users = {
        volume["persistentVolumeClaim"]["claimName"]
        for _, one in pod_templates(docs)
        for volume in one["spec"].get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    for doc in of_kind(docs, "PersistentVolumeClaim"):
        assert doc["metadata"]["name"] in users
        assert wave(doc) == 0, label(doc)


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_the_project_lets_it_make_every_object(overlay: str) -> None:
    project = yaml.safe_load((K8S / "argocd" / "project.yaml").read_text())["spec"]
    allowed = {(each["group"], each["kind"]) for each in project["clusterResourceWhitelist"]}
    for doc in rendered(overlay):
        if doc["kind"] in WITHOUT_NAMESPACE:
            group = doc["apiVersion"].rpartition("/")[0]
            assert (group, doc["kind"]) in allowed, label(doc)
        else:
            assert doc["metadata"]["namespace"] == "tidegate", label(doc)
