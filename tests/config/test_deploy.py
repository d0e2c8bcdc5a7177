"""scripts/deploy against a real Git remote and a scripted `argocd`: what it waits for, and what it takes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scripts.is_deployed import is_deployed

ROOT = Path(__file__).parents[2]
OLD, NEW = (f"r.example.com/t/tidegate/gateway@sha256:{digit * 64}" for digit in "ab")
FILE = "k8s/argocd/environments/staging.yaml"
# Tells the application of one look after the other, and of each call on a line of its own.
ARGOCD = """#!/bin/sh
echo "$2" >>"$ARGOCD_CALLS"
case $2 in
get)
    seen=$(grep -c '^get$' "$ARGOCD_CALLS")
    if [ "$seen" -gt "$ARGOCD_LATE" ]; then cat "$ARGOCD_NEW"; else cat "$ARGOCD_OLD"; fi ;;
wait) exit "$ARGOCD_WAIT" ;;
esac
"""


def application(reference: str) -> dict[str, Any]:
    """As Argo CD tells it while all is well with what it has last compared."""
    source = {"kustomize": {"images": [f"tidegate/gateway={reference}"]}}
    return {
        "status": {
            "sync": {"status": "Synced", "comparedTo": {"source": source}},
            "health": {"status": "Healthy"},
        }
    }


class Stand:
    """A clone with what a deployment reads, its remote, and the program."""

    def __init__(self, folder: Path) -> None:
        self.clone, self._remote, self._folder = folder / "clone", folder / "remote.git", folder
        for name in ("deploy", "set_images.py", "is_deployed.py"):
            (self.clone / "scripts").mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / "scripts" / name, self.clone / "scripts" / name)
        (self.clone / FILE).parent.mkdir(parents=True)
        shutil.copy2(ROOT / FILE, self.clone / FILE)
        (self.clone / "dist" / "images").mkdir(parents=True)
        (self.clone / "dist" / "images" / "gateway.ref").write_text(f"{NEW}\n")
        (self.clone / ".gitignore").write_text("dist/\n__pycache__/\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "begin")
        subprocess.run(
            ["git", "init", "--quiet", "--bare", "--initial-branch=main", self._remote], check=True
        )
        self.git("remote", "add", "origin", str(self._remote))
        self.git("push", "--quiet", "origin", "main")
        (folder / "bin").mkdir()
        (folder / "bin" / "argocd").write_text(ARGOCD)
        (folder / "bin" / "argocd").chmod(0o755)
        for name, reference in (("old", OLD), ("new", NEW)):
            (folder / f"{name}.json").write_text(json.dumps(application(reference)))

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@invalid"]
        done = subprocess.run(
            ["git", *who, *words], cwd=self.clone, capture_output=True, text=True, check=True
        )
        return done.stdout

    def deploy(self, *, late: int = 0, wait: int = 0, patience_s: int = 60) -> tuple[int, list[str]]:
        """Exit code and the calls of argocd. late: looks that still see the old deployment."""
        env = {
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(self._folder),
            "ARGOCD_CALLS": str(self._folder / "calls"),
            "ARGOCD_OLD": str(self._folder / "old.json"),
            "ARGOCD_NEW": str(self._folder / "new.json"),
            "ARGOCD_LATE": str(late),
            "ARGOCD_WAIT": str(wait),
            "DEPLOY_LOOK_S": "0.05",
            "DEPLOY_SEEN_S": str(patience_s),
        }
        (self._folder / "calls").unlink(missing_ok=True)
        script = self.clone / "scripts" / "deploy"
        done = subprocess.run(
            [script, "staging", "v9.9.9"], env=env, capture_output=True, text=True, check=False
        )
        calls = self._folder / "calls"
        return done.returncode, calls.read_text().split() if calls.exists() else [done.stderr]

    def published(self) -> tuple[list[str], bool]:
        """Subjects of the remote's commits, newest first, and whether its file names the new image."""
        log = subprocess.run(
            ["git", "log", "--format=%s", "main"],
            cwd=self._remote,
            capture_output=True,
            text=True,
            check=True,
        )
        text = subprocess.run(
            ["git", "show", f"main:{FILE}"], cwd=self._remote, capture_output=True, text=True, check=True
        )
        return log.stdout.splitlines(), NEW in text.stdout


@pytest.fixture
def stand(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_health_counts_only_once_argo_cd_has_seen_the_commit(stand: Stand) -> None:
    code, calls = stand.deploy(late=3)
    assert (code, calls) == (0, ["get", "get", "get", "get", "wait"])
    assert stand.published() == (["Deploy v9.9.9 to staging", "begin"], True)


def test_what_does_not_hold_is_taken_back(stand: Stand) -> None:
    code, calls = stand.deploy(wait=20)
    assert (code, calls[-1]) == (1, "wait")
    subjects, has_new = stand.published()
    assert subjects[0].startswith("Revert ")
    assert not has_new


def test_a_commit_that_is_never_seen_is_taken_back(stand: Stand) -> None:
    code, calls = stand.deploy(late=10**6, patience_s=0)
    assert code == 1
    assert "wait" not in calls
    assert not stand.published()[1]


def test_a_second_run_commits_nothing_and_takes_nothing_back(stand: Stand) -> None:
    """Whose commit the environment runs is not known then; a shallow clone would even take that for the first one."""
    assert stand.deploy()[0] == 0
    before = stand.published()
    assert stand.deploy(wait=20)[0] == 1
    assert stand.published() == before


@pytest.mark.parametrize(
    "told",
    [{}, {"status": {"sync": {}}}, {"status": {"sync": {"comparedTo": {"source": {}}}}}, application(OLD)],
)
def test_an_application_that_does_not_name_the_image_has_not_seen_it(told: dict[str, Any]) -> None:
    assert not is_deployed(told, [NEW])
    assert is_deployed(application(NEW), [NEW])
