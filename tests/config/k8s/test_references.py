"""What manifests name must be there: pods, ports, ConfigMaps, Secrets, settings, commands, metrics."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from gateway.admission.queue_store import queue_key
from gateway.cli.eval_labels import parse
from gateway.metrics import Metrics
from gateway.settings import PREFIX, Settings, load_settings
from gateway.tier_config import configured_tiers
from tests.config.k8s.manifests import (
    K8S,
    NAME,
    OVERLAYS,
    ROOT,
    containers,
    label,
    of_kind,
    pod_templates,
    rendered,
    selected,
)
from tests.config.test_docs import commands

overlays = pytest.mark.parametrize("overlay", OVERLAYS)
# Made by an operator as docs/deploy.md says, never by a manifest; `dev` makes the first two itself.
FROM_OUTSIDE = {
    "tidegate-database": {"url", "password"},
    "tidegate-redis": {"url", "password"},
    "tidegate-evaluation": {"api-key"},
    "tidegate-admin-key": {"key"},
    "tidegate-tls": set(),
}


def named(value: Any, key: str) -> list[Any]:
    """Every value under that key, at any depth."""
    if isinstance(value, dict):
        here = [value[key]] if key in value else []
        return here + [one for each in value.values() for one in named(each, key)]
    if isinstance(value, list):
        return [one for each in value for one in named(each, key)]
    return []


@overlays
def test_every_selector_finds_pods(overlay: str) -> None:
    docs = rendered(overlay)
    for doc in of_kind(docs, "Deployment", "StatefulSet", "Rollout", "PodDisruptionBudget", "PodMonitor"):
        assert selected(docs, doc["spec"]["selector"]), label(doc)
    for doc in of_kind(docs, "Service"):
        assert selected(docs, doc["spec"]["selector"]), label(doc)
    for _, one in pod_templates(docs):
        for spread in one["spec"].get("topologySpreadConstraints", []):
            assert one in selected(docs, spread["labelSelector"])


@overlays
def test_every_service_port_is_one_that_its_pods_have(overlay: str) -> None:
    docs = rendered(overlay)
    for doc in of_kind(docs, "Service"):
        for one in selected(docs, doc["spec"]["selector"]):
            ports = {port["name"] for each in containers(one) for port in each.get("ports", [])}
            assert {port["targetPort"] for port in doc["spec"]["ports"]} <= ports, label(doc)


@overlays
def test_every_probe_asks_a_port_of_its_container(overlay: str) -> None:
    for name, one in pod_templates(rendered(overlay)):
        for each in containers(one):
            ports = {port["name"] for port in each.get("ports", [])}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                asked = [port for port in named(each.get(probe, {}), "port") if isinstance(port, str)]
                assert set(asked) <= ports, (name, each["name"], probe)


@overlays
def test_every_configmap_secret_claim_and_account_is_there(overlay: str) -> None:
    docs = rendered(overlay)
    have = {(doc["kind"], doc["metadata"]["name"]) for doc in docs}
    secrets = {name for kind, name in have if kind == "Secret"}
    for name, one in pod_templates(docs):
        spec = one["spec"]
        maps = [ref["name"] for ref in named(spec, "configMapRef") + named(spec, "configMap")]
        assert {("ConfigMap", each) for each in maps} <= have, name
        for ref in named(spec, "secretKeyRef"):
            generated = any(secret.startswith(ref["name"]) for secret in secrets)
            known = ref["key"] in FROM_OUTSIDE.get(ref["name"], set())
            assert generated or known or ("Secret", ref["name"]) in have, (name, ref)
        for claim in named(spec, "claimName"):
            assert ("PersistentVolumeClaim", claim) in have, name
        if (account := spec.get("serviceAccountName", "default")) != "default":
            assert ("ServiceAccount", account) in have, name
        assert ("PriorityClass", spec["priorityClassName"]) in have, name
        mounted = {mount["name"] for each in containers(one) for mount in each.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        claimed = {"data"} if name.startswith("StatefulSet") else set()
        assert mounted == volumes | claimed, name


@overlays
def test_every_setting_is_one_and_the_whole_is_valid(overlay: str, tmp_path: Path) -> None:
    """What a part of ours gets in its environment starts it, as far as settings go."""
    docs = rendered(overlay)
    data = {doc["metadata"]["name"]: doc["data"] for doc in of_kind(docs, "ConfigMap")}
    known = {PREFIX + spec.name.upper() for spec in fields(Settings)}
    for name, one in pod_templates(docs):
        for each in containers(one):
            if not each["image"].startswith("tidegate/"):
                continue
            environ: dict[str, str] = {}
            for source in each.get("envFrom", []):
                environ |= data[source["configMapRef"]["name"]]
            for entry in each.get("env", []):
                value = entry.get("value", "sqlite:////tmp/x.db" if "DATABASE" in entry["name"] else "secret")
                environ[entry["name"]] = value
            ours = {key: value for key, value in environ.items() if key.startswith(PREFIX)}
            assert set(ours) <= known, (name, set(ours) - known)
            if tiers := ours.get("TIDEGATE_TIERS_FILE"):
                file = tmp_path / Path(tiers).name
                file.write_text(next(text["tiers.toml"] for text in data.values() if "tiers.toml" in text))
                ours["TIDEGATE_TIERS_FILE"] = str(file)
            settings = load_settings(ours)
            names = {tier.name for tier in configured_tiers(settings)}
            if tiers and settings.triton_hosts:
                assert names <= set(settings.hosts_of_triton), name


@overlays
def test_hosts_are_services(overlay: str) -> None:
    docs = rendered(overlay)
    services = {doc["metadata"]["name"] for doc in of_kind(docs, "Service")}
    for doc in of_kind(docs, "ConfigMap"):
        if doc["metadata"]["name"].startswith("tidegate-settings"):
            ours = {key: value for key, value in doc["data"].items() if key.startswith(PREFIX)}
            settings = load_settings(ours)
            hosts = {*settings.hosts_of_triton.values(), *settings.hosts_of_canaries.values()}
            assert {settings.gateway_host, *hosts} <= services
            if settings.milvus_uri:
                assert settings.milvus_uri.split("//")[1].split(":")[0] in services


@overlays
def test_every_command_is_one_of_ours(overlay: str) -> None:
    known = commands()
    for name, one in pod_templates(rendered(overlay)):
        for each in containers(one):
            if each["image"].startswith("tidegate/"):
                command, *rest = each["args"]
                assert command in known, name
                options = {word for word in rest if word.startswith("--")}
                assert options <= known[command], (name, options - known[command])


def exported() -> set[str]:
    """Names of series that a worker tells."""
    found = set()
    for family in Metrics().registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        found |= {family.name + suffix for suffix in suffixes}
    return found


@overlays
def test_every_metric_of_a_scaler_or_analysis_is_exported(overlay: str) -> None:
    docs = rendered(overlay)
    texts = [
        query for doc in of_kind(docs, "ScaledObject", "AnalysisTemplate") for query in named(doc, "query")
    ]
    texts += [
        metric["pods"]["metric"]["name"]
        for doc in of_kind(docs, "HorizontalPodAutoscaler")
        for metric in doc["spec"]["metrics"]
    ]
    texts += [
        doc["data"]["config.yaml"] for doc in of_kind(docs, "ConfigMap") if "config.yaml" in doc["data"]
    ]
    series = {each for text in texts for each in re.findall(r"\btidegate_\w+", text)}
    assert series <= exported()
    if overlay != "dev":
        assert {"tidegate_waiting", "tidegate_inflight", "tidegate_ingest_waiting"} <= series


@overlays
def test_redis_triggers_read_the_key_that_the_queue_writes(overlay: str) -> None:
    for doc in of_kind(rendered(overlay), "ScaledObject"):
        for trigger in doc["spec"]["triggers"]:
            if trigger["type"] == "redis":
                name = trigger["metadata"]["listName"]
                found = re.search(r"\{(\w+)\}", name)
                assert found is not None
                assert name == queue_key(found[1], "line")


@overlays
def test_scalers_and_rollouts_point_at_workloads(overlay: str) -> None:
    docs = rendered(overlay)
    have = {label(doc) for doc in docs}
    targets = []
    for doc in of_kind(docs, "ScaledObject", "HorizontalPodAutoscaler"):
        ref = doc["spec"]["scaleTargetRef"]
        targets.append(f"{ref['kind']}/{ref['name']}")
    assert set(targets) <= have
    assert len(targets) == len(set(targets)), "two scalers of one workload fight"
    for doc in of_kind(docs, *("Deployment", "Rollout")):
        if label(doc) in targets:
            assert "replicas" not in doc["spec"], f"{label(doc)}: an apply would undo the scaler"
    templates = {doc["metadata"]["name"] for doc in of_kind(docs, "AnalysisTemplate")}
    assert set(named(of_kind(docs, "Rollout"), "templateName")) <= templates
    for doc in of_kind(docs, "Rollout"):
        services = [
            value
            for key in ("stableService", "canaryService", "activeService", "previewService")
            for value in named(doc, key)
        ]
        assert {f"Service/{name}" for name in services} <= have
        assert f"Deployment/{doc['spec']['workloadRef']['name']}" in have


@overlays
def test_a_model_is_named_by_digest_and_the_same_one_everywhere(overlay: str) -> None:
    references: dict[str, set[str]] = {}
    for name, one in pod_templates(rendered(overlay)):
        for volume in one["spec"].get("volumes", []):
            if "image" in volume:
                reference = volume["image"]["reference"]
                assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", reference), name
                references.setdefault(reference.partition("@")[0], set()).add(reference)
                if one["metadata"]["labels"][NAME].startswith("triton-"):
                    assert "tidegate.io/model-version" in one["metadata"]["labels"], name
    for digests in references.values():
        assert len(digests) == 1, "the workers and Triton have different versions of a model"


def test_the_gpu_image_has_the_engine_of_the_tiers_that_it_serves(tmp_path: Path) -> None:
    """A library that is not in the image ends the guard at its first start."""
    base = re.search(
        r"^ARG TRITON_IMAGE=(\S+)", (ROOT / "images" / "triton-gpu.Dockerfile").read_text(), re.MULTILINE
    )
    assert base is not None
    engine = {"trtllm": "tensorrt_llm", "vllm": "vllm"}[base[1].split("-")[1]]
    for file in (K8S / "components" / "gpu" / "tiers.toml", ROOT / "examples" / "tiers-gpu.toml"):
        tiers = configured_tiers(load_settings({"TIDEGATE_TIERS_FILE": str(file)}, var=tmp_path))
        assert {tier.engine for tier in tiers} == {engine}, file


def test_the_golden_set_is_one() -> None:
    file = K8S / "components" / "rollouts" / "golden.json"
    labelled = parse(json.loads(file.read_text()), file)
    assert labelled.has_unanswerable
