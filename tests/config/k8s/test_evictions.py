"""The component `evictions` on top of an overlay: one part gets two rights, and a token that nobody else sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.supervise.pod_orders import TOKEN_FOLDER
from tests.config.k8s.manifests import NAME, OVERLAYS, Doc, containers, of_kind, pod_templates, rendered_with
from tests.config.k8s.test_schemas import VERSIONS, is_custom, problems, standard_path

COMPONENT = "evictions"


@pytest.fixture(params=OVERLAYS)
def docs(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Doc, ...]:
    return rendered_with(request.param, COMPONENT, tmp_path)


def gateway(docs: tuple[Doc, ...]) -> Doc:
    (found,) = [one for name, one in pod_templates(docs) if name == "Deployment/gateway"]
    return found


def test_the_rights_are_to_see_pods_and_to_evict_one(docs: tuple[Doc, ...]) -> None:
    (role,) = of_kind(docs, "Role")
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods/eviction"], "verbs": ["create"]},
    ]
    (binding,) = of_kind(docs, "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["name"]) == ("ServiceAccount", "gateway")
    assert of_kind(docs, "ClusterRole", "ClusterRoleBinding") == []


def test_the_token_is_the_workers_alone_and_short_lived(docs: tuple[Doc, ...]) -> None:
    template = gateway(docs)
    assert template["spec"]["automountServiceAccountToken"] is False
    assert template["spec"]["serviceAccountName"] == "gateway"
    (volume,) = [each for each in template["spec"]["volumes"] if "projected" in each]
    sources = volume["projected"]["sources"]
    (token,) = [each["serviceAccountToken"] for each in sources if "serviceAccountToken" in each]
    assert token["expirationSeconds"] <= 3600
    mounts = {
        each["name"]: mount
        for each in containers(template)
        for mount in each.get("volumeMounts", [])
        if mount["name"] == volume["name"]
    }
    assert set(mounts) == {"gateway"}
    assert mounts["gateway"]["mountPath"] == str(TOKEN_FOLDER)
    assert mounts["gateway"]["readOnly"] is True
    files = {token["path"]}
    files |= {item["path"] for each in sources for kind in each.values() for item in kind.get("items", [])}
    assert files == {"token", "ca.crt", "namespace"}
    others = [one for name, one in pod_templates(docs) if name != "Deployment/gateway"]
    assert not any("projected" in volume for one in others for volume in one["spec"].get("volumes", []))


def test_only_the_gateway_reaches_the_api(docs: tuple[Doc, ...]) -> None:
    (policy,) = [doc for doc in of_kind(docs, "NetworkPolicy") if doc["metadata"]["name"] == "gateway-to-api"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {NAME: "gateway"}}
    (rule,) = policy["spec"]["egress"]
    assert [peer["ipBlock"]["cidr"].rpartition("/")[2] for peer in rule["to"]] == ["32"]


def test_every_object_fits_its_schema(docs: tuple[Doc, ...]) -> None:
    new = of_kind(docs, "Role", "RoleBinding", "NetworkPolicy", "Deployment")
    wrong = [
        text for doc in new if not is_custom(doc) for text in problems(doc, standard_path(doc, VERSIONS[-1]))
    ]
    assert wrong == []
