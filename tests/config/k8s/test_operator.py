"""What docs/deploy.md tells an operator to do, done: to a copy of the manifests, as kubectl renders them then."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.config.k8s.manifests import K8S, ROOT, Doc, containers, kustomized, label, pod_templates, rendered

PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
OLD, NEW = "1" * 64, "3" * 64


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(K8S, tmp_path / "k8s"))


def models(docs: tuple[Doc, ...], tier: str) -> dict[str, str]:
    """Who mounts the tier's model -> which one."""
    return {
        name: volume["image"]["reference"]
        for name, template in pod_templates(docs)
        for volume in template["spec"].get("volumes", [])
        if f"/{tier}@" in volume.get("image", {}).get("reference", "")
    }


@pytest.mark.parametrize(
    ("overlay", "moved"),
    [
        ("staging", {"Deployment/triton-small", "Deployment/gateway"}),
        (
            "production",
            {"Deployment/" + name for name in ("triton-small", "gateway", "judge", "judge-in-force")},
        ),
    ],
)
def test_a_model_version_is_shipped_by_one_file(copy: Path, overlay: str, moved: set[str]) -> None:
    file = copy / "components" / "gpu" / "triton-small.yaml"
    text = file.read_text()
    assert text.count(OLD) == text.count("tidegate.io/model-version: v1") == 1
    file.write_text(text.replace(OLD, NEW).replace("model-version: v1", "model-version: v2"))
    docs, before = kustomized(copy / "overlays" / overlay), rendered(overlay)
    changed = {label(doc) for doc, was in zip(docs, before, strict=True) if doc != was}
    assert changed == moved
    assert models(docs, "small") == dict.fromkeys(
        moved, f"registry.example.com/tidegate/models/small@sha256:{NEW}"
    )
    assert models(docs, "large") == models(before, "large")


def test_the_way_back_is_the_old_file(copy: Path) -> None:
    assert kustomized(copy / "overlays" / "production") == rendered("production")


def test_the_folder_on_the_page_gives_every_image_of_ours_another_registry(copy: Path) -> None:
    (text,) = re.findall(r"```yaml\n(# kustomization\.yaml of your folder.*?)```", PAGE, re.DOTALL)
    ours = copy / "overlays" / "ours"
    ours.mkdir()
    (ours / "kustomization.yaml").write_text(text)
    known = {each["name"] for each in yaml.safe_load(text)["images"]}
    before = [each["image"] for _, one in pod_templates(rendered("production")) for each in containers(one)]
    assert {image.partition(":")[0] for image in before if image.startswith("tidegate/")} == known
    after = [each["image"] for _, one in pod_templates(kustomized(ours)) for each in containers(one)]
    assert [image.removeprefix("registry.example.com/team/") for image in after] == before
    assert not [image for image in after if image.startswith("tidegate/")]


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`(k8s/[\w./-]+\w)`", PAGE))
    assert named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_workload_that_the_page_names_is_there() -> None:
    docs = {label(doc).lower() for overlay in ("staging", "production") for doc in rendered(overlay)}
    named = set(re.findall(r"(?:deployment|scaledobject)[/ ][a-z][a-z-]+", PAGE))
    assert named
    assert {name.replace(" ", "/") for name in named} <= docs
    rollouts = set(re.findall(r"argo rollouts (?:get rollout|abort|undo) ([a-z-]+)", PAGE))
    assert {f"rollout/{name}" for name in rollouts} <= docs
    assert rollouts
