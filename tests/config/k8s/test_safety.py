"""Drains that add up, pods that may do little, and a path in the network policies for each needed connection."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.settings import load_settings
from gateway.shutdown import CUT_OFF_S, GOODBYE_S
from gateway.supervise.guard import BALANCER_NOTICES_S, UNLOAD_S
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
    rendered,
    selected,
)

overlays = pytest.mark.parametrize("overlay", OVERLAYS)
# After the drain: to tell those who are cut off, to write what is kept, to let a child go (gateway/shutdown.py,
# guard.py, envoy_process.py).
AFTER_DRAIN_S = {
    "gateway": GOODBYE_S + CUT_OFF_S + 5.0,
    "edge": 5.0,
    "triton": BALANCER_NOTICES_S + UNLOAD_S + 1.0,
}


@overlays
def test_every_stream_may_end_before_its_pod_does(overlay: str) -> None:
    """preStop + what is left of the longest stream + the end itself <= grace period, for each part in its path."""
    docs = rendered(overlay)
    settings = load_settings(config_map(docs, "TIDEGATE_AUTH")["data"])
    longest_s = settings.request_timeout_s
    assert settings.drain_s >= longest_s, "the drain cuts streams that had time left"
    checked = set()
    for name, one in pod_templates(docs):
        for each in one["spec"]["containers"]:
            after_s = AFTER_DRAIN_S.get(each["name"])
            if after_s is None or not each["image"].startswith("tidegate/"):
                continue
            pre_stop_s = each["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert pre_stop_s >= 5, f"{name}: requests still arrive for seconds"
            needed_s = pre_stop_s + settings.drain_s + after_s
            assert needed_s <= one["spec"]["terminationGracePeriodSeconds"], (name, needed_s)
            checked.add(each["name"])
    assert checked == set(AFTER_DRAIN_S)


@overlays
def test_nodes_wait_longer_than_their_pods(overlay: str) -> None:
    docs = rendered(overlay)
    longest_s = max(one["spec"].get("terminationGracePeriodSeconds", 30) for _, one in pod_templates(docs))
    for doc in of_kind(docs, "NodePool"):
        text = doc["spec"]["template"]["spec"]["terminationGracePeriod"]
        assert text.endswith("m")
        assert int(text[:-1]) * 60 > longest_s
    for doc in of_kind(docs, "Rollout"):
        if blue_green := doc["spec"]["strategy"].get("blueGreen"):
            assert blue_green["scaleDownDelaySeconds"] >= longest_s


@overlays
def test_a_model_may_take_its_time_to_load(overlay: str) -> None:
    """Kubernetes waits at least as long as the guard, which gives up by itself; and a rollout as long as both."""
    for doc in of_kind(rendered(overlay), "Deployment"):
        for each in doc["spec"]["template"]["spec"]["containers"]:
            if each["name"] == "triton":
                probe = each["startupProbe"]
                patience_s = probe["periodSeconds"] * probe["failureThreshold"]
                tiers = 1 if "TIDEGATE_TIERS_FILE" in {entry["name"] for entry in each["env"]} else 0
                assert patience_s >= 180 + 600 * tiers, label(doc)
                assert doc["spec"]["progressDeadlineSeconds"] > patience_s


@overlays
def test_triton_is_judged_by_its_guard(overlay: str) -> None:
    """Triton's own readiness does not see a dead model process."""
    for name, one in pod_templates(rendered(overlay)):
        for each in one["spec"]["containers"]:
            if each["name"] == "triton":
                probes = [each[probe] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
                asked = {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes}
                assert asked == {"health"}, name
                assert each["args"] == ["run", "triton"], name
                assert "command" not in each, name


@overlays
def test_every_pod_is_restricted(overlay: str) -> None:
    """Pod Security Standards, level restricted, and a little more."""
    docs = rendered(overlay)
    (namespace,) = of_kind(docs, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, one in pod_templates(docs):
        spec = one["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), name
        security = spec["securityContext"]
        assert security["runAsNonRoot"], name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"]["type"] == "RuntimeDefault", name
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["enableServiceLinks"] is False, f"{name}: a Service's variables could look like settings"
        for volume in spec.get("volumes", []):
            kinds = volume.keys() - {"name"}
            assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "image"}, name
        for each in containers(one):
            own = each["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, (name, each["name"])
            assert own["readOnlyRootFilesystem"] is True, (name, each["name"])
            assert own["capabilities"] == {"drop": ["ALL"]}, (name, each["name"])
            assert {"cpu", "memory"} <= each["resources"]["requests"].keys(), (name, each["name"])
            assert "memory" in each["resources"]["limits"], (name, each["name"])
            assert not any(port.get("hostPort") for port in each.get("ports", [])), name


@overlays
def test_every_image_has_a_version(overlay: str) -> None:
    for name, one in pod_templates(rendered(overlay)):
        for each in containers(one):
            _, _, tag = each["image"].rpartition("/")[2].partition(":")
            assert tag not in {"", "latest"}, (name, each["image"])


@overlays
def test_nobody_may_ask_the_cluster_anything(overlay: str) -> None:
    assert of_kind(rendered(overlay), "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding") == []


@overlays
def test_no_secret_is_in_a_manifest(overlay: str) -> None:
    if overlay == "dev":
        return  # its passwords are for one machine
    found = [label(doc) for doc in of_kind(rendered(overlay), "Secret")]
    assert [name for name in found if not name.startswith("Secret/tidegate-alertmanager")] == []


@overlays
def test_what_serves_has_a_disruption_budget(overlay: str) -> None:
    docs = rendered(overlay)
    budgets = [doc["spec"] for doc in of_kind(docs, "PodDisruptionBudget")]
    for budget in budgets:
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    for doc in of_kind(docs, "Deployment"):
        labels = doc["spec"]["template"]["metadata"]["labels"]
        if (
            doc["spec"]["template"]["spec"]["priorityClassName"] == "tidegate-serving"
            and labels[NAME] != "judge"
        ):
            assert any(matches(budget["selector"], labels) for budget in budgets), label(doc)


@overlays
def test_what_serves_is_spread_over_zones_and_nodes(overlay: str) -> None:
    seen = set()
    for doc in of_kind(rendered(overlay), "Deployment"):
        template = doc["spec"]["template"]
        if template["spec"]["priorityClassName"] == "tidegate-serving":
            spread = template["spec"].get("topologySpreadConstraints", [])
            keys = {each["topologyKey"] for each in spread}
            assert keys == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}, label(doc)
            seen.add(template["metadata"]["labels"][NAME])
    assert {"gateway", "edge", "triton-retrieval"} <= seen


def allows(docs: tuple[Doc, ...], one: dict[str, str], other: dict[str, str], port: int, way: str) -> bool:
    """Whether a policy on `one` lets it speak to `other` (Egress), or hear it (Ingress), on that port."""
    key, word = ("egress", "to") if way == "Egress" else ("ingress", "from")
    for doc in of_kind(docs, "NetworkPolicy"):
        spec = doc["spec"]
        if way not in spec["policyTypes"] or not matches(spec["podSelector"], one):
            continue
        for rule in spec.get(key, []):
            if not any(each["port"] == port for each in rule.get("ports", [{"port": port}])):
                continue
            peers: list[Any] = rule.get(word, [])
            if not peers:
                return True
            if any("podSelector" in peer and matches(peer["podSelector"], other) for peer in peers):
                return True
    return False


NEEDED = [
    ("edge", "gateway", 8090), ("edge", "gateway", 8680),
    ("gateway", "triton-retrieval", 8380), ("gateway", "triton-retrieval", 8383),
    ("gateway", "triton-small", 8380), ("gateway", "triton-small", 8383),
    ("gateway", "triton-large", 8380), ("gateway", "triton-large", 8383),
    ("gateway", "redis", 6379), ("gateway", "postgres", 5432), ("gateway", "milvus", 19530),
    ("ingest", "triton-retrieval", 8380), ("ingest", "triton-retrieval", 8383),
    ("ingest", "redis", 6379), ("ingest", "postgres", 5432), ("ingest", "milvus", 19530),
    ("triton-retrieval", "postgres", 5432), ("triton-retrieval", "milvus", 19530),
    ("migrate", "postgres", 5432),
    ("redis", "redis-node", 6379), ("redis-node", "redis-node", 6379), ("redis-node", "redis-node", 26379),
    ("judge", "triton-retrieval", 8380), ("judge", "triton-small", 8380), ("judge", "triton-large", 8383),
    ("judge", "redis", 6379), ("judge", "milvus", 19530),
    ("golden-set", "judge", 8090), ("golden-set", "gateway", 8090),
]  # fmt: skip
NEVER = [
    ("edge", "redis", 6379),
    ("edge", "postgres", 5432),
    ("triton-small", "gateway", 8090),
    ("ingest", "gateway", 8090),
]


@overlays
def test_each_needed_connection_is_let_through_and_no_other(overlay: str) -> None:
    docs = rendered(overlay)
    (deny,) = [doc for doc in of_kind(docs, "NetworkPolicy") if doc["metadata"]["name"] == "default-deny"]
    assert deny["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for client, server, port in [*NEEDED, *NEVER]:
        one = selected(docs, {NAME: client})
        other = selected(docs, {NAME: server})
        if not one or not other:
            continue
        a, b = one[0]["metadata"]["labels"], other[0]["metadata"]["labels"]
        is_open = allows(docs, a, b, port, "Egress") and allows(docs, b, a, port, "Ingress")
        assert is_open == ((client, server, port) in NEEDED), (client, server, port)
