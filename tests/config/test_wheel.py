"""The wheel carries all that a service needs beside the code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="the build backend hatchling is not installed")

ROOT = Path(__file__).parents[2]

# Runs in the unpacked wheel: what it finds of itself, and a database from its own migrations.
LOOK = """
import json, sys
import gateway
import gateway.admission.redis_leases  # reads its Lua
from gateway.checkpoint.prepare import SCRIPT
from gateway.settings import load_settings
from gateway.storage.database import Database
from gateway.supervise.assets import find_assets
assets = find_assets()
settings = load_settings({}, var=sys.argv[1])
roots = [*assets.model_repositories, assets.generate_model.parent]
database = Database(settings.sql_url)
database.migrate()
database.close()
print(json.dumps({
    "package": gateway.__file__,
    "documents": [path.name for path in assets.documents],
    "template": assets.envoy_template.is_file(),
    "models": sorted(path.parent.name for root in roots for path in root.glob("*/config.pbtxt")),
    "versions": all((path.parent / "1").is_dir() for root in roots for path in root.glob("*/config.pbtxt")),
    "converter": SCRIPT.is_file(),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def unpacked(wheel: Path) -> Path:
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def tracked(*patterns: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file()
    }


def test_everything_beside_the_code_is_in_the_wheel(unpacked: Path) -> None:
    beside = tracked("model_repository/*/*/config.pbtxt", "model_repository/*/*/1/model.py", "envoy/*.j2")
    assert {f"gateway/_assets/{name}" for name in beside} <= contents(unpacked)
    inside = tracked("gateway/api/pages/*", "gateway/storage/migrations/**/*.py", "gateway/supervise/*.py")
    inside |= tracked("gateway/proto/*.py", "gateway/proto/*.pyi", "gateway/proto/*.proto")
    assert len(inside) > 20
    assert inside <= contents(unpacked)
    documents = tracked(
        "README.md", "ARCHITECTURE.md", "DECISIONS.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*"
    )
    assert {f"gateway/_assets/documents/{name}" for name in documents} <= contents(unpacked)


def test_nothing_else_is_in_the_wheel(unpacked: Path) -> None:
    tops = {name.partition("/")[0] for name in contents(unpacked)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"gateway"}
    assert not [name for name in contents(unpacked) if name.endswith(".pyc") or "/var/" in name]


def contents(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_installed_package_finds_its_own_assets(unpacked: Path, tmp_path: Path) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "var")],
        cwd=tmp_path,
        env=kept | {"PYTHONPATH": str(unpacked), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["package"]).is_relative_to(unpacked)
    assert found["documents"][:2] == ["README.md", "ARCHITECTURE.md"]
    assert "settings.md" in found["documents"]
    assert found["template"]
    assert found["versions"]
    assert found["converter"]
    assert found["models"] == [
        "embed", "embed_passages", "generate", "reader", "rerank", "retrieve", "search",
    ]  # fmt: skip
