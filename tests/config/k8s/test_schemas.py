"""Every object of every overlay against its schema: Kubernetes' own, and those of the custom resources.

Neither is part of this repository. `make kube-schemas` fetches the first; the second are read from a folder `schemas`
beside the checkout's `shared`. What is not there is skipped, and said so.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.config.k8s.manifests import OVERLAYS, ROOT, Doc, label, of_kind, pod_templates, rendered

VERSIONS = tuple(f"1.{minor}" for minor in range(30, 38))
# Image volumes are in the API since 1.31; an overlay that has them says so in docs/deploy.md.
FIRST_WITH_IMAGE_VOLUMES = "1.31"
CUSTOM = ROOT.parent / "shared" / "schemas"
STANDARD = ".venv/kubernetes-validate/lib/python3*/site-packages/kubernetes_validate/kubernetes-json-schema"


@functools.cache
def standard_folder(version: str) -> Path:
    found = sorted(ROOT.glob(f"{STANDARD}/v{version}.*-local-strict"))
    if not found:
        pytest.skip("the schemas of Kubernetes are not here: run `make kube-schemas`")
    return found[-1]


def is_custom(doc: Doc) -> bool:
    group = doc["apiVersion"].rpartition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group.startswith("gateway.networking")


@functools.cache
def definitions(folder: Path) -> Registry[Any]:
    """What the schemas of one version of Kubernetes have in common; they refer to it by its own name."""
    whole = json.loads((folder / "_definitions.json").read_text())
    return Registry().with_resource("/api/_definitions.json", DRAFT202012.create_resource(whole)).crawl()


@functools.cache
def validator(path: Path) -> Any:
    schema = json.loads(path.read_text())
    if path.is_relative_to(CUSTOM):
        return jsonschema.Draft7Validator(schema)
    return jsonschema.Draft202012Validator(schema, registry=definitions(path.parent))


def problems(doc: Doc, path: Path) -> list[str]:
    if not path.exists():
        return [f"{label(doc)}: no schema {path.name}"]
    return [
        f"{label(doc)}: {'/'.join(map(str, error.absolute_path))}: {error.message}"
        for error in validator(path).iter_errors(doc)
    ]


def standard_path(doc: Doc, version: str) -> Path:
    group, _, number = doc["apiVersion"].rpartition("/")
    parts = [doc["kind"].lower(), *([group.split(".")[0]] if group else []), number]
    return standard_folder(version) / f"{'-'.join(parts)}.json"


def has_image_volumes(docs: tuple[Doc, ...]) -> bool:
    return any(
        "image" in volume for _, one in pod_templates(docs) for volume in one["spec"].get("volumes", [])
    )


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_standard_object_fits_its_schema(overlay: str, version: str) -> None:
    docs = rendered(overlay)
    if has_image_volumes(docs) and version < FIRST_WITH_IMAGE_VOLUMES:
        pytest.skip(f"{overlay} has image volumes, which Kubernetes {version} does not know")
    wrong = [
        text for doc in docs if not is_custom(doc) for text in problems(doc, standard_path(doc, version))
    ]
    assert wrong == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_custom_object_fits_its_schema(overlay: str) -> None:
    if not CUSTOM.is_dir():
        pytest.skip(f"the schemas of custom resources are not in {CUSTOM.name}/ beside this checkout")
    wrong = [
        text
        for doc in rendered(overlay)
        if is_custom(doc)
        for text in problems(doc, CUSTOM / f"{doc['apiVersion'].replace('/', '_')}_{doc['kind']}.json")
    ]
    assert wrong == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_job_inside_an_analysis_fits_the_schema_of_a_job(overlay: str) -> None:
    """The custom resource's schema looks into it; the standard one is the stricter of the two."""
    for doc in of_kind(rendered(overlay), "AnalysisTemplate"):
        for metric in doc["spec"]["metrics"]:
            if job := metric["provider"].get("job"):
                whole = {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {"name": "x"},
                    "spec": job["spec"],
                }
                assert problems(whole, standard_path(whole, VERSIONS[-1])) == []


def test_a_misspelt_field_is_found() -> None:
    doc = json.loads(json.dumps(of_kind(rendered("dev"), "Deployment")[0]))
    doc["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    assert problems(doc, standard_path(doc, VERSIONS[-1]))
