"""What the images are built from and run: every name in a Dockerfile and in compose.yaml is one that is there.

`dockerfile` is BuildKit's own parser. tests/config/test_pipelines.py holds the pipelines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import dockerfile
import pytest
import typer.main
import yaml

from gateway import __version__
from gateway.cli import build_app
from gateway.settings import PREFIX, Settings, load_settings, secret_files

ROOT = Path(__file__).parents[2]
DOCKERFILES = [ROOT / "images" / "Dockerfile", ROOT / "images" / "triton-gpu.Dockerfile"]
IMAGES = ["gateway", "triton-cpu", "triton-gpu", "envoy"]
SETTINGS = {PREFIX + spec.name.upper() for spec in fields(Settings)} | set(secret_files())
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
PINNED = re.compile(r".+:[\w.-]*\d[\w.-]*(@sha256:[0-9a-f]{64})?")

each_file = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)


def commands_of(path: Path) -> list[Any]:
    return list(dockerfile.parse_file(str(path)))


def stages(path: Path) -> dict[str, list[Any]]:
    """Each stage's instructions by its name, the FROM first."""
    found: dict[str, list[Any]] = {}
    for command in commands_of(path):
        if command.cmd.upper() == "FROM":
            found[command.value[-1]] = []
        if found:
            found[list(found)[-1]].append(command)
    return found


def inherited(path: Path, stage: str) -> list[Any]:
    """A stage's instructions and those of the stages that it builds on, in order."""
    all_of = stages(path)
    own = all_of[stage]
    base = own[0].value[0]
    return (inherited(path, base) if base in all_of else []) + own


def final_images() -> Iterator[tuple[str, list[Any]]]:
    for path in DOCKERFILES:
        for stage in stages(path):
            if stage in IMAGES:
                yield stage, inherited(path, stage)


final = pytest.mark.parametrize(("image", "steps"), list(final_images()), ids=lambda value: str(value)[:12])


def last(steps: list[Any], name: str) -> tuple[str, ...]:
    return next(tuple(step.value) for step in reversed(steps) if step.cmd.upper() == name)


def test_there_is_a_target_for_every_image_that_the_pipelines_build() -> None:
    assert sorted(name for name, _ in final_images()) == sorted(IMAGES)
    named = subprocess.run(
        ["bash", ROOT / "scripts" / "image", "names"], capture_output=True, text=True, check=True
    )
    assert named.stdout.split() == IMAGES


@each_file
def test_every_base_is_pinned_and_nothing_is_fetched_from_a_url(path: Path) -> None:
    bases = [step.value[0] for step in commands_of(path) if step.cmd.upper() == "ARG"]
    assert bases
    assert [base for base in bases if not PINNED.fullmatch(base.partition("=")[2])] == []
    assert {step.cmd.upper() for step in commands_of(path)}.isdisjoint({"ADD", "MAINTAINER"})
    assert not re.search(r"https?://|index-url|pypi", path.read_text("utf-8"))


@each_file
def test_every_copied_file_is_there_and_reaches_the_builder(path: Path) -> None:
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for step in commands_of(path):
        if step.cmd.upper() != "COPY":
            continue
        *sources, _ = step.value
        origin = next((flag.partition("=")[2] for flag in step.flags if flag.startswith("--from=")), "")
        if origin:
            assert origin in stages(path)
            continue
        for source in sources:
            assert (ROOT / source).exists(), source
            assert any(source == name or source.startswith(f"{name}/") for name in kept), source


def test_what_the_wheel_takes_in_is_copied() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    table = project.partition("[tool.hatch.build.targets.wheel.force-include]")[2].partition("\n[")[0]
    wanted = {*re.findall(r'^"([^"]+)" = ', table, re.MULTILINE), "gateway"}
    for path in DOCKERFILES:
        copied = {
            name for step in commands_of(path) if step.cmd.upper() == "COPY" for name in step.value[:-1]
        }
        missing = [name for name in wanted if not any(f"{name}/".startswith(f"{each}/") for each in copied)]
        assert missing == [], path.name


@final
def test_an_image_runs_one_command_of_ours_without_rights(image: str, steps: list[Any]) -> None:
    user = last(steps, "USER")[0]
    assert user == "65532:65532"
    assert last(steps, "ENTRYPOINT") == ("tidegate",)
    assert_is_a_command([*last(steps, "CMD")])
    assert last(steps, "VOLUME") == ("/var/lib/tidegate",)
    assert image in IMAGES


@final
def test_every_setting_of_an_image_exists(image: str, steps: list[Any]) -> None:
    environment: dict[str, str] = {}
    for step in steps:
        if step.cmd.upper() == "ENV":
            flat = list(step.value)
            environment |= dict(zip(flat[::2], flat[1::2], strict=True))
    ours = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    assert load_settings(ours).var == Path("/var/lib/tidegate")
    assert environment["PATH"].startswith("/opt/tidegate/bin:"), image


def assert_is_a_command(argv: list[str]) -> None:
    """As far as the command line itself checks it: names, arguments, options."""
    root: Any = typer.main.get_command(build_app())
    command: Any = root.commands[argv[0]]
    command.make_context(argv[0], argv[1:])  # raises for an argument that it does not know


def test_images_are_made_of_pinned_packages_only() -> None:
    script = (ROOT / "images" / "install").read_text("utf-8")
    installs = [line for line in script.splitlines() if re.search(r"\bpip (--python \S+ )?install\b", line)]
    assert len(installs) == 3
    assert [line for line in installs if "--require-hashes" not in line and "--no-index" not in line] == []
    for lock in re.findall(r"requirements/([\w-]+)\.txt", script + DOCKERFILES[1].read_text("utf-8")):
        text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
        assert "--hash=sha256:" in text
        assert "://" not in text


@pytest.mark.parametrize("name", ["models.txt", "from-the-base.txt"])
def test_what_an_image_leaves_out_is_something_that_is_locked(name: str) -> None:
    locked = set(
        re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements" / "serve.txt").read_text(), re.MULTILINE)
    )
    lines = (ROOT / "images" / name).read_text("utf-8").splitlines()
    assert {line for line in lines if not line.startswith("#")} - locked == set()


def test_the_gateway_and_envoy_start_without_what_their_images_leave_out() -> None:
    """The modules of every part but Triton, imported with the left-out packages made unimportable."""
    gone = ["faiss", "onnxruntime", "openvino", "openvino_genai", "openvino_tokenizers", "sympy", "tantivy"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({gone!r}));"
        "import gateway.app, gateway.ingest_app, gateway.supervise.envoy_process, gateway.cli.run"
    )
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "python", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# compose.yaml


def test_compose_is_valid(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            ROOT / ".venv" / "bin" / "check-jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            "compose.yaml",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def ours() -> dict[str, Any]:
    return {name: each for name, each in COMPOSE["services"].items() if "tidegate/" in each["image"]}


def interpolated(text: str) -> str:
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


def test_services_run_our_images_at_this_version_and_others_at_an_exact_tag() -> None:
    for name, service in COMPOSE["services"].items():
        image = interpolated(service["image"])
        if name in ours():
            repository, _, tag = image.partition(":")
            assert (repository.removeprefix("tidegate/") in IMAGES, tag) == (True, __version__), name
        else:
            assert re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]+", image), name


def test_every_service_of_ours_is_locked_in_and_runs_a_command_that_exists() -> None:
    for name, service in ours().items():
        assert service["read_only"] is True, name
        assert service["user"] == "65532:65532", name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert_is_a_command(service["command"])
        named = {key for key in service["environment"] if key.startswith(PREFIX)}
        assert named - SETTINGS == set(), name
        values = {k: interpolated(v) for k, v in service["environment"].items() if k not in secret_files()}
        load_settings(values)


def test_services_get_longer_to_stop_than_they_take_to_drain() -> None:
    drain_s = float(COMPOSE["x-settings"]["TIDEGATE_DRAIN_S"])
    for name, service in ours().items():
        if service["command"] == ["migrate"]:
            continue
        grace_s = int(service["stop_grace_period"].removesuffix("s"))
        assert grace_s >= drain_s + 10, name


def test_no_secret_stands_in_the_file_and_each_comes_from_one() -> None:
    text = (ROOT / "compose.yaml").read_text("utf-8")
    assert not re.search(r"(PASSWORD|TOKEN|_URL|KEY): (?!/run/secrets)\S", text)
    for name, service in COMPOSE["services"].items():
        for secret in service.get("secrets", []):
            assert secret in COMPOSE["secrets"], name
        for value in (service.get("environment") or {}).values():
            if str(value).startswith("/run/secrets/"):
                assert str(value).removeprefix("/run/secrets/") in service["secrets"], name


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_has_a_triton_for_every_name_that_the_balancer_looks_up(profile: str) -> None:
    lines = (ROOT / "images" / f"{profile}.env").read_text("utf-8").splitlines()
    env = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert env["COMPOSE_PROFILES"] == profile
    wanted = {entry.rpartition("=")[2] for entry in env["TRITON_HOSTS"].split(",")}
    offered: set[str] = set()
    for name, service in COMPOSE["services"].items():
        if service.get("profiles") == [profile]:
            networks = service["networks"]
            offered |= {name, *(networks["back"]["aliases"] if isinstance(networks, dict) else [])}
    assert wanted <= offered
    interpolated_names = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text("utf-8")))
    assert set(env) - {"COMPOSE_PROFILES"} <= interpolated_names


def test_a_gpu_that_is_reserved_is_asked_for_by_name() -> None:
    """`auto` would take the processor where the GPU's libraries do not load, and nobody would hear of it."""
    on_gpu = {
        name: service["environment"] for name, service in COMPOSE["services"].items() if "deploy" in service
    }
    assert set(on_gpu) == {"triton-retrieval", "triton-small"}
    retrieval = {name for name, env in on_gpu.items() if env["TIDEGATE_TRITON_SERVES"] == "retrieval"}
    assert {name for name, env in on_gpu.items() if env.get("TIDEGATE_EMBED_PROVIDER") == "cuda"} == retrieval
    values = {key: interpolated(str(value)) for key, value in on_gpu["triton-retrieval"].items()}
    plain = {key: value for key, value in values.items() if not key.endswith("_FILE")}
    assert load_settings(plain).embed_provider == "cuda"


def test_only_the_edge_is_published_and_on_loopback() -> None:
    published = {
        name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service
    }
    assert list(published) == ["edge"]
    assert interpolated(published["edge"][0]).startswith("127.0.0.1:")


def test_passwords_are_made_once_and_fit_the_settings(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    for _ in range(2):
        subprocess.run([ROOT / "scripts" / "compose-secrets", folder], check=True)
    texts = {file.name: file.read_text() for file in folder.iterdir()}
    assert set(texts) == set(COMPOSE["secrets"])
    subprocess.run([ROOT / "scripts" / "compose-secrets", folder], check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == texts
    settings = load_settings(
        {f"{PREFIX}{name.upper()}_FILE": str(folder / name) for name in ("database_url", "redis_url")}
    )
    assert texts["redis_password"].strip() in settings.redis_url
    assert texts["database_password"].strip() in settings.database_url
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "script", ["images/install", "scripts/image", "scripts/deploy", "scripts/golden-set"]
)
def test_a_script_can_be_run_and_parsed(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = shlex.split(path.read_text("utf-8").splitlines()[0].removeprefix("#!"))[-1]
    subprocess.run([Path(shell).name, "-n", path], check=True)


def test_the_builder_gets_no_state_and_no_secret() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert "*" in lines
    assert json.dumps(lines).count("secrets") == 0
    assert not any(line.startswith(("!var", "!.", "!models")) for line in lines)


def foreign_images() -> set[tuple[str, str]]:
    """Repository and tag of each image that others make: of compose, of the manifests, of Dockerfiles and pipelines."""
    found = {
        interpolated(service["image"]) for name, service in COMPOSE["services"].items() if name not in ours()
    }
    for path in DOCKERFILES:
        found |= set(re.findall(r"^ARG \w+_IMAGE=(\S+)", path.read_text("utf-8"), re.MULTILINE))
    gitlab = (ROOT / ".gitlab-ci.yml").read_text("utf-8")
    found |= set(re.findall(r"""(?:image|name): "?([\w.-]+(?:/[\w.-]+)+:[\w.-]+)""", gitlab))
    for path in (ROOT / "k8s").rglob("*.yaml"):
        text = path.read_text("utf-8")
        found |= {f"{name}:{tag}" for name, tag in re.findall(r"\{ name: (\S+), newTag: (\S+) \}", text)}
        found |= set(re.findall(r"image: ([\w.-]+(?:/[\w.-]+)*:[\w.-]+)$", text, re.MULTILINE))
    bare = {each.partition("@")[0].partition(":")[::2] for each in found}
    return {(name, tag) for name, tag in bare if not name.startswith("tidegate/")}


def test_the_page_tells_where_each_foreign_version_was_seen() -> None:
    table = (ROOT / "docs" / "images.md").read_text("utf-8").partition("## Images of others")[2]
    told = {
        (name.removeprefix("docker.io/library/"), tag)
        for row in re.findall(r"^\|(.+?)\|(.+?)\|.+\|$", table, re.MULTILINE)
        for name in re.findall(r"`([^`]+)`", row[0])
        for tag in re.findall(r"`([^`]+)`", row[1])
    }
    used = {(name.removeprefix("docker.io/library/"), tag) for name, tag in foreign_images()}
    assert len(used) > 10
    assert used - told == set()


def test_one_foreign_image_has_one_version_everywhere() -> None:
    tags: dict[str, set[str]] = {}
    for name, tag in foreign_images():
        tags.setdefault(name.removeprefix("docker.io/library/"), set()).add(tag)
    several = {name: found for name, found in tags.items() if len(found) > 1}
    assert set(several) <= {"python", "docker"}  # whole and slim; client and server
