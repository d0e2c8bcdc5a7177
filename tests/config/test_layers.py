"""The layers of the package, read from its imports, and that importing it does nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gateway

PACKAGE = Path(gateway.__file__).parent

# Imports point down only, and never to a sibling on the same level 3.
LAYERS = {
    "types": 1, "errors": 1, "settings": 1, "priority": 1,
    "ports": 2, "tensors": 2, "metrics": 2, "lifecycle": 2, "triton": 2, "tier_config": 2, "storage": 2,
    "embedding": 2,
    "genai_metrics": 2, "logs": 2, "request_id": 1, "tracing": 2,
    "listener": 2, "lag": 2, "memory": 2, "shown": 2,
    "checkpoint": 2, "proto": 2, "language": 2, "filters": 1,
    "admission": 3, "caching": 3, "retrieval": 3, "generation": 3, "ingest": 3, "tiering": 3,
    "pipeline": 3.4, "chat": 3.5, "api": 4,
    "supervise": 5, "cli": 5, "app": 5, "neighbours": 5, "shutdown": 5, "ingest_app": 5, "__main__": 5,
}  # fmt: skip


def modules() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_assets" not in path.parts]


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit(name: str) -> str:
    """`gateway.api.chat` -> `api`; '' for the package itself."""
    return [*name.split("."), ""][1]


def imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" if module == "gateway" else module for alias in node.names}
    return {name for name in found if name.startswith("gateway.")}


@pytest.mark.parametrize("path", modules(), ids=dotted)
def test_imports_point_down(path: Path) -> None:
    mine = unit(dotted(path))
    if not mine:
        return
    assert mine in LAYERS, f"{dotted(path)} belongs to no layer"
    for name in imports(path):
        other = unit(name)
        if other in {mine, "__version__"}:
            continue
        assert other in LAYERS, f"{dotted(path)} imports {name}, which belongs to no layer"
        same_level_is_fine = LAYERS[mine] in {1, 2, 5}
        assert LAYERS[other] < LAYERS[mine] or (same_level_is_fine and LAYERS[other] == LAYERS[mine]), (
            f"{dotted(path)} (layer {LAYERS[mine]}) must not import {name} (layer {LAYERS[other]})"
        )


def test_sanic_stays_in_the_top_layers() -> None:
    users = {
        dotted(path)
        for path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "sanic" for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sanic")
    }
    assert {unit(name) for name in users} <= {"api", "app"}


# Watches a fresh interpreter while it imports all of ours: no file opened for writing, no socket, no process, no log.
WATCHER = """
import importlib, logging, os, sys
modules = sys.argv[1:]
problems = []
def watch(event, args):
    if event in {"socket.connect", "socket.bind", "subprocess.Popen", "os.fork", "os.remove", "os.mkdir"}:
        problems.append((event, str(args)))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+"):
        problems.append((event, str(args)))
sys.addaudithook(watch)
class Handler(logging.Handler):
    def emit(self, record): problems.append(("log", record.getMessage()))
logging.getLogger("tidegate").addHandler(Handler())
os.environ.clear()
before = dict(os.environ)
for module in modules:
    importlib.import_module(module)
ours = [p for p in problems if "__pycache__" not in p[1]]
assert not ours, ours
assert dict(os.environ) == before, "the environment was changed"
"""


def test_importing_every_module_has_no_effects() -> None:
    names = [
        dotted(path) for path in modules() if path.name != "__main__.py" and "migrations" not in path.parts
    ]
    result = subprocess.run(
        [sys.executable, "-B", "-c", WATCHER, *names],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=PACKAGE.parent,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == ""
