"""Who calls whom, read from what the manifests say, and whether the network policies let each call through."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
import yaml  # type: ignore[import-untyped]

from gateway.settings import PREFIX, Settings, load_settings
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
    rendered,
    selected,
)
from tests.config.k8s.test_safety import allows

overlays = pytest.mark.parametrize("overlay", OVERLAYS)
MONITORING, KEDA, DNS = "monitoring", "keda", "kube-system"
NODE_CACHE = "169.254.20.10/32"  # NodeLocal DNSCache: no pod, so no selector finds it


def hears(docs: tuple[Doc, ...], labels: dict[str, str], namespace: str, port: int) -> bool:
    """Whether a pod with these labels may be called from another namespace."""
    for doc in of_kind(docs, "NetworkPolicy"):
        if "Ingress" not in doc["spec"]["policyTypes"] or not matches(doc["spec"]["podSelector"], labels):
            continue
        for rule in doc["spec"].get("ingress", []):
            names = [
                peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
                for peer in rule.get("from", [])
                if "namespaceSelector" in peer
            ]
            if namespace in names and port in [each["port"] for each in rule["ports"]]:
                return True
    return False


def settings_of(docs: tuple[Doc, ...], container: Doc) -> Settings:
    """What a container of ours is told in plain words; a tiers file is not read."""
    data = {doc["metadata"]["name"]: doc["data"] for doc in of_kind(docs, "ConfigMap")}
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        environ |= data[source["configMapRef"]["name"]]
    environ |= {entry["name"]: entry["value"] for entry in container.get("env", []) if "value" in entry}
    environ.pop("TIDEGATE_TIERS_FILE", None)
    return load_settings({key: value for key, value in environ.items() if key.startswith(PREFIX)})


def pods_behind(docs: tuple[Doc, ...], service: str) -> list[Doc]:
    (found,) = [doc for doc in of_kind(docs, "Service") if doc["metadata"]["name"] == service]
    return selected(docs, found["spec"]["selector"])


@overlays
def test_a_balancer_knows_no_replica_that_its_pod_may_not_reach(overlay: str) -> None:
    """Its health checks would fail for ever, and TidegateReplicaSick fire as long."""
    docs, seen = rendered(overlay), set()
    for name, one in pod_templates(docs):
        for each in containers(one):
            if each.get("args") != ["run", "balancer"]:
                continue
            settings = settings_of(docs, each)
            for host in (*settings.hosts_of_triton.values(), *settings.hosts_of_canaries.values()):
                for other in pods_behind(docs, host):
                    a, b = one["metadata"]["labels"], other["metadata"]["labels"]
                    for port in (8380, 8383):
                        is_open = allows(docs, a, b, port, "Egress") and allows(docs, b, a, port, "Ingress")
                        assert is_open, (name, host, port)
                    seen.add((a[NAME], b[NAME]))
    assert {("gateway", "triton-retrieval"), ("ingest", "triton-retrieval")} <= seen
    if overlay != "dev":
        assert ("gateway", "triton-large") in seen


@overlays
def test_a_container_and_its_balancer_know_the_same_replicas(overlay: str) -> None:
    docs = rendered(overlay)
    for name, one in pod_templates(docs):
        own = [each for each in containers(one) if each.get("args", [""])[0] == "run"]
        if ["run", "balancer"] in [each["args"] for each in own]:
            assert len({settings_of(docs, each).triton_hosts for each in own}) == 1, name


@overlays
def test_prometheus_reaches_every_port_that_it_reads(overlay: str) -> None:
    docs = rendered(overlay)
    monitors = of_kind(docs, "PodMonitor")
    for doc in monitors:
        for one in selected(docs, doc["spec"]["selector"]):
            numbers = {
                port["name"]: port["containerPort"] for c in containers(one) for port in c.get("ports", [])
            }
            for endpoint in doc["spec"]["podMetricsEndpoints"]:
                port = numbers[endpoint["port"]]
                assert hears(docs, one["metadata"]["labels"], MONITORING, port), (label(doc), port)
    assert bool(monitors) == (overlay != "dev")


@overlays
def test_keda_reaches_the_redis_that_it_scales_by(overlay: str) -> None:
    docs = rendered(overlay)
    for doc in of_kind(docs, "ScaledObject"):
        for trigger in doc["spec"]["triggers"]:
            if trigger["type"] == "redis":
                host, _, port = trigger["metadata"]["address"].partition(":")
                service, namespace, _ = host.split(".", 2)
                assert namespace == "tidegate"
                for one in pods_behind(docs, service):
                    assert hears(docs, one["metadata"]["labels"], KEDA, int(port)), label(doc)


@overlays
def test_keda_takes_every_name_of_a_trigger_once(overlay: str) -> None:
    """Its admission refuses the whole object otherwise; the schema does not say so."""
    for doc in of_kind(rendered(overlay), "ScaledObject"):
        names = [trigger["name"] for trigger in doc["spec"]["triggers"]]
        assert len(names) == len(set(names)), label(doc)


@overlays
def test_every_pod_may_ask_for_names(overlay: str) -> None:
    docs = rendered(overlay)
    (policy,) = [doc for doc in of_kind(docs, "NetworkPolicy") if doc["metadata"]["name"] == "dns"]
    assert policy["spec"]["podSelector"] == {}
    (rule,) = policy["spec"]["egress"]
    assert {(each["protocol"], each["port"]) for each in rule["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": DNS}}} in rule["to"]
    assert {"ipBlock": {"cidr": NODE_CACHE}} in rule["to"]


@pytest.mark.parametrize("overlay", ["staging", "production"])
def test_alertmanager_reaches_the_gateway_that_its_receiver_names(overlay: str) -> None:
    docs = rendered(overlay)
    (alertmanager,) = of_kind(docs, "Alertmanager")
    a = alertmanager["spec"]["podMetadata"]["labels"]
    file = K8S / "components" / "monitoring" / "alertmanager" / "alertmanager.yaml"
    (receiver,) = [
        each for each in yaml.safe_load(file.read_text())["receivers"] if each["name"] == "gateway"
    ]
    (webhook,) = receiver["webhook_configs"]
    address = urlsplit(webhook["url"])
    assert address.hostname is not None
    assert address.port is not None
    for one in pods_behind(docs, address.hostname):
        b = one["metadata"]["labels"]
        assert allows(docs, a, b, address.port, "Egress")
        assert allows(docs, b, a, address.port, "Ingress")
    folder = re.fullmatch(
        r"/etc/alertmanager/secrets/([\w-]+)/key", webhook["http_config"]["authorization"]["credentials_file"]
    )
    assert folder is not None
    assert folder[1] in alertmanager["spec"]["secrets"]


def test_haproxy_asks_for_whole_names_of_the_pods_that_are_there() -> None:
    """Its own resolver knows no search list: a short name would never be found."""
    docs = rendered("production")
    text = (K8S / "components" / "redis-ha" / "haproxy.cfg").read_text()
    (nodes,) = [doc for doc in of_kind(docs, "StatefulSet") if doc["metadata"]["name"] == "redis-node"]
    domain = f"{nodes['spec']['serviceName']}.{nodes['metadata']['namespace']}.svc.cluster.local"
    wanted = [f"redis-node-{index}.{domain}:6379" for index in range(nodes["spec"]["replicas"])]
    assert re.findall(r"^\s+server \S+ (\S+) check", text, re.MULTILINE) == wanted
