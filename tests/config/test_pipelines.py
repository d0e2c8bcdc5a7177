"""The pipelines, held to the schemas of those who run them, and to what is in this repository."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tree_sitter
import tree_sitter_groovy
import yaml

from scripts.release_notes import NotReleasable, release_notes
from scripts.set_images import BadReference, with_images
from tests.e2e import test_eval

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PIPELINES = [*WORKFLOWS, ROOT / ".gitlab-ci.yml", ROOT / "Jenkinsfile"]
ARGO = sorted((ROOT / "k8s" / "argocd").glob("*.yaml"))
SCHEMAS = ROOT.parent / "shared" / "schemas"
DIGEST = "sha256:" + 64 * "a"
NEEDED = (
    "make kube-schemas",
    "make check",
    "perf-smoke|Perf smoke",
    "scripts/image build",
    "scripts/image sbom|syft",
    "scripts/image scan|grype",
    "scripts/image sign|\\$step",
    "scripts/deploy",
    "scripts/golden-set",
    "scripts.release_notes",
)

each_pipeline = pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)


def check_schema(path: Path, *options: str) -> None:
    program = ROOT / ".venv" / "bin" / "check-jsonschema"
    done = subprocess.run([program, *options, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@each_workflow
def test_a_workflow_is_valid_and_every_job_has_a_limit(path: Path) -> None:
    check_schema(path, "--builtin-schema", "vendor.github-workflows")
    check_schema(path, "--builtin-schema", "custom.github-workflows-require-timeout")


def test_the_gitlab_pipeline_is_valid() -> None:
    check_schema(
        ROOT / ".gitlab-ci.yml", "--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci"
    )


@each_workflow
def test_actions_are_pinned_by_commit_and_rights_are_asked_for_one_by_one(path: Path) -> None:
    text = path.read_text("utf-8")
    uses = re.findall(r"uses: (\S+)(.*)", text)
    assert uses
    assert [use for use, note in uses if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use)] == []
    assert [note for _, note in uses if not re.fullmatch(r" # v\d+\.\d+\.\d+", note)] == []
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    # What is written inside ${{ }} would be run as text: it reaches a script through its environment only.
    assert [line for line in run_lines(workflow) if "${{" in line] == []


def run_lines(workflow: dict[str, Any]) -> Iterator[str]:
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            yield from str(step.get("run", "")).splitlines()


def test_one_action_has_one_version_everywhere() -> None:
    pins: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for action, pin in re.findall(r"uses: ([\w.-]+/[\w.-]+)\S*@(\S+)", path.read_text("utf-8")):
            pins.setdefault(action, set()).add(pin)
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def broken_at(groovy: bytes) -> list[int]:
    """Lines at which a text is no Groovy, from 1."""
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_groovy.language()))
    found, todo = [], [parser.parse(groovy).root_node]
    while todo:
        node = todo.pop()
        if node.is_error or node.is_missing:
            found.append(node.start_point.row + 1)
        todo += node.children
    return sorted(found)


def test_the_jenkinsfile_is_groovy() -> None:
    text = (ROOT / "Jenkinsfile").read_bytes()
    assert broken_at(text) == []
    for harm in (
        ("stage('Test') {", "stage('Test' {"),
        ("sh 'make check'", "sh 'make check"),
        ("\n}\n", "\n"),
    ):
        before, after = (each.encode() for each in harm)
        at = text.rindex(before)
        assert broken_at(text[:at] + after + text[at + len(before) :])


@pytest.mark.parametrize("system", ["github", "gitlab", "jenkins"])
def test_every_system_does_every_step(system: str) -> None:
    files = {"github": WORKFLOWS, "gitlab": [ROOT / ".gitlab-ci.yml"], "jenkins": [ROOT / "Jenkinsfile"]}
    text = "\n".join(path.read_text("utf-8") for path in files[system])
    assert [step for step in NEEDED if not re.search(step, text)] == []
    assert text.index("scripts/deploy staging") if system != "github" else True
    production = re.search(r"scripts/deploy production|ENVIRONMENT: production", text)
    assert production
    assert text.index("scripts/golden-set") < production.start()  # the gate stands before it


@pytest.mark.parametrize("path", [WORKFLOWS[0], *PIPELINES[-2:]], ids=lambda path: path.name)
def test_the_schemas_are_there_before_the_manifests_are_held_to_them(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.index("make kube-schemas") < text.index("make check")


@each_pipeline
def test_what_a_pipeline_calls_is_there(path: Path) -> None:
    text = path.read_text("utf-8")
    for script in set(re.findall(r"(?<![\w/])(scripts/[\w-]+|\.ci/run)", text)):
        assert (ROOT / script).is_file(), script
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets |= {f"test-{level}" for level in ("config", "unit", "contract", "integration", "e2e")}
    called = set(re.findall(r"\bmake ([a-z][a-z-]*)\b", text)) - {"sure"}
    assert called - targets == set()
    assert not re.search(r"pypi\.org|index-url", text)


def test_the_golden_set_has_the_floors_of_the_end_to_end_test() -> None:
    script = (ROOT / "scripts" / "golden-set").read_text("utf-8")
    named = {name: float(value) for name, value in re.findall(r"--fail-\w+ (\w+)=([\d.]+)", script)}
    held = test_eval.OWN_FLOORS | test_eval.OWN_CEILINGS
    assert len(named) >= 5
    assert named.items() <= held.items()


# Releases


PYPROJECT = '[project]\nname = "tidegate"\nversion = "1.2.3"\n'


def test_the_notes_of_a_release_are_its_section_alone() -> None:
    changelog = "# Changelog\n\n## 1.2.3 (2027-01-02)\n\n- New.\n\n## 1.2.2\n\n- Old.\n"
    assert release_notes("v1.2.3", PYPROJECT, changelog) == "- New.\n"


@pytest.mark.parametrize(
    ("tag", "changelog", "says"),
    [
        ("v1.2.4", "## 1.2.3\n- New.\n", "it wants v1.2.3"),
        ("v1.2.3", "## 1.2.2\n- Old.\n", "no section for 1.2.3"),
        ("v1.2.3", "## 1.2.3 (unreleased)\n- New.\n", "unreleased"),
        ("v1.2.3", "## 1.2.3\n\n## 1.2.2\n- Old.\n", "says nothing"),
    ],
)
def test_what_is_no_release_is_refused_in_one_sentence(tag: str, changelog: str, says: str) -> None:
    with pytest.raises(NotReleasable, match=says):
        release_notes(tag, PYPROJECT, changelog)


def test_this_version_can_be_released_once_it_has_its_date() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8").replace(" (unreleased)", " (2027-01-02)", 1)
    version = tomllib.loads(pyproject)["project"]["version"]
    assert release_notes(f"v{version}", pyproject, changelog)


# Argo CD


@pytest.mark.parametrize("path", ARGO, ids=lambda path: path.name)
def test_an_argo_object_is_valid(path: Path) -> None:
    if not SCHEMAS.is_dir():
        pytest.skip(f"{SCHEMAS} is not here: the schemas are not part of the repository")
    document = yaml.safe_load(path.read_text("utf-8"))
    name = f"{document['apiVersion'].replace('/', '_')}_{document['kind']}.json"
    jsonschema.Draft7Validator(json.loads((SCHEMAS / name).read_text("utf-8"))).validate(document)


def test_every_application_keeps_a_scalers_replicas_and_belongs_to_the_project() -> None:
    documents = {path.stem: yaml.safe_load(path.read_text("utf-8")) for path in ARGO}
    specs = [documents["application"]["spec"], documents["applicationset"]["spec"]["template"]["spec"]]
    for spec in specs:
        assert spec["project"] == documents["project"]["metadata"]["name"]
        assert "RespectIgnoreDifferences=true" in spec["syncPolicy"]["syncOptions"]
        assert {each["group"] for each in spec["ignoreDifferences"]} == {"apps", "argoproj.io"}
        assert spec["source"]["repoURL"] in documents["project"]["spec"]["sourceRepos"]


def test_every_environment_has_what_the_application_set_asks_for() -> None:
    text = (ROOT / "k8s" / "argocd" / "applicationset.yaml").read_text("utf-8")
    asked = set(re.findall(r"\{\{[^}]*?\.(\w+)", text))
    environments = [yaml.safe_load(p.read_text()) for p in (ROOT / "k8s/argocd/environments").glob("*.yaml")]
    assert {each["environment"] for each in environments} == {"staging", "production"}
    for environment in environments:
        assert asked <= set(environment)


def test_a_deployment_names_images_by_digest_and_keeps_the_others() -> None:
    before = (ROOT / "k8s" / "argocd" / "environments" / "staging.yaml").read_text("utf-8")
    first = with_images(
        before, [f"r.example.com:5000/t/tidegate/{name}@{DIGEST}" for name in ("gateway", "envoy")]
    )
    second = with_images(first, [f"other/tidegate/gateway@{DIGEST}\n"])
    assert yaml.safe_load(second)["images"] == [
        f"tidegate/envoy=r.example.com:5000/t/tidegate/envoy@{DIGEST}",
        f"tidegate/gateway=other/tidegate/gateway@{DIGEST}",
    ]
    assert second.startswith("# What Argo CD runs")
    for bad in ("tidegate/gateway:0.1.0", "nginx@" + DIGEST, ""):
        with pytest.raises(BadReference):
            with_images(before, [bad])
