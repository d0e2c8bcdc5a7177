"""The command line, as a process of its own, against the whole running service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
COLLECTION = "cli-tests"
LIMIT_S = 60.0
NUM_FILES = 120

Tidegate = Callable[..., "subprocess.CompletedProcess[str]"]

PAGES = {
    "lighthouse.md": "# Lighthouse\n\nThe lighthouse keeper lights the lamp at 19:40 every evening in March.\n",
    "ferry/prices.md": "# Ferry\n\nA ferry ticket to the island costs 12 euros for grown-ups.\n",
    "ferry/dogs.txt": "Dogs travel free of charge on the upper deck of the ferry.\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cli")
    for name, text in PAGES.items():
        path = root / "pages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "pages" / ".hidden.md").write_text("Not to be seen.")
    return root


@pytest.fixture(scope="module")
def environment(service: Any) -> dict[str, str]:
    """Only the state folder is told: address and key come from there."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "TG_"))}
    return kept | {"TIDEGATE_VAR": str(service.var), "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def tidegate(folder: Path, environment: dict[str, str]) -> Tidegate:
    def run(*args: str, stdin: str | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "gateway", *args],
            cwd=folder,
            env=environment | extra,
            input=stdin or "",
            capture_output=True,
            encoding="utf-8",
            timeout=LIMIT_S,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def ingested(tidegate: Tidegate) -> dict[str, Any]:
    """The summary of the first ingest."""
    result = tidegate("ingest", "pages", "-c", COLLECTION, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_folder_is_ingested(ingested: dict[str, Any]) -> None:
    assert ingested["added"] == ["pages/ferry/dogs.txt", "pages/ferry/prices.md", "pages/lighthouse.md"]
    assert ingested["failed"] == {}


def test_the_same_folder_again_is_unchanged(tidegate: Tidegate, ingested: dict[str, Any]) -> None:
    result = tidegate("ingest", "pages", "-c", COLLECTION)
    assert (result.returncode, result.stdout) == (0, f"{COLLECTION}: 3 files unchanged.\n")


def test_ask_streams_the_answer_and_names_its_source(tidegate: Tidegate, ingested: dict[str, Any]) -> None:
    result = tidegate("ask", "When does the keeper light the lamp?", "-c", COLLECTION)
    assert result.returncode == 0, result.stderr
    answer, _, sources = result.stdout.partition("\nSources\n")
    assert "19:40" in answer
    assert "pages/lighthouse.md" in sources
    assert "19:40" in sources


def test_ask_can_be_read_by_programs(tidegate: Tidegate, ingested: dict[str, Any]) -> None:
    result = tidegate(
        "ask", "-", "-c", COLLECTION, "-m", "deep", "--json", stdin="What does a ticket cost?\n"
    )
    answer = json.loads(result.stdout)
    assert "12 euros" in answer["answer"]
    assert any(source["cited"] and source["quotes"] for source in answer["sources"])
    assert answer["receipt"]["tier"] == "deep"
    assert answer["receipt"]["outcome"] == "completed"


def test_search_finds_the_passage(tidegate: Tidegate, ingested: dict[str, Any]) -> None:
    result = tidegate("search", "Do dogs pay?", "-c", COLLECTION, "-k", "2", "--json")
    found = json.loads(result.stdout)
    assert found[0]["filename"] == "pages/ferry/dogs.txt"
    assert len(found) == 2
    assert found[0]["score"] >= found[1]["score"]


def test_a_changed_file_replaces_its_old_version(
    tidegate: Tidegate, folder: Path, ingested: dict[str, Any]
) -> None:
    (folder / "pages" / "ferry" / "prices.md").write_text(
        "# Ferry\n\nA ferry ticket to the island costs 15 euros.\n"
    )
    result = tidegate("ingest", "pages", "-c", COLLECTION)
    assert (result.returncode, result.stdout) == (0, f"{COLLECTION}: 1 file replaced, 2 files unchanged.\n")

    def prices() -> list[str]:
        found = tidegate("search", "What does a ferry ticket cost?", "-c", COLLECTION, "--json")
        return [passage["text"] for passage in json.loads(found.stdout) if "euros" in passage["text"]]

    # replicas follow the removal within a second
    wait_until(lambda: [("15 euros" in text) for text in prices()] == [True])


def test_a_file_that_is_not_text_fails_with_its_reason(tidegate: Tidegate, folder: Path) -> None:
    (folder / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))
    result = tidegate("ingest", "image.png", "-c", f"{COLLECTION}-bad")
    assert result.returncode == 1
    assert "failed  image.png: " in result.stdout


def test_models_lists_the_tiers(tidegate: Tidegate) -> None:
    names = {model["id"] for model in json.loads(tidegate("models", "--json").stdout)}
    assert {"auto", "fast", "deep"} <= names


def test_a_key_works_until_it_is_revoked(tidegate: Tidegate, service: Any) -> None:
    made = json.loads(tidegate("keys", "create", "--tenant", "cli", "--name", "e2e", "--json").stdout)
    headers = {"authorization": f"Bearer {made['key']}"}

    def status() -> int:
        return httpx.get(f"{service.base_url}/v1/models", headers=headers).status_code

    assert status() == 200
    assert tidegate("models", TG_API_KEY=made["key"]).returncode == 0
    assert made["key"] not in tidegate("keys", "list").stdout
    assert tidegate("keys", "revoke", made["id"]).returncode == 0
    wait_until(lambda: status() == 401, limit_s=5.0)  # far below what a gateway remembers a key for
    refused = tidegate("models", TG_API_KEY=made["key"])
    assert refused.returncode == 1
    assert "TG_API_KEY" in refused.stderr


def test_another_tenants_key_sees_nothing_of_ours(tidegate: Tidegate, ingested: dict[str, Any]) -> None:
    key = tidegate("keys", "create", "--tenant", "cli-stranger", "--name", "e2e").stdout.strip()
    assert tidegate("search", "ferry", "-c", COLLECTION, "--key", key).returncode == 2
    assert tidegate("search", "ferry", "--key", key).returncode == 1


def test_status_shows_every_part(tidegate: Tidegate, service: Any) -> None:
    result = tidegate("status", "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["state"]) == (0, "ready"), report["problems"]
    kinds = {part["name"].partition("-")[0] for part in report["parts"]}
    assert kinds == {"redis", "triton", "envoy", "gateway", "ingest"}
    assert all(part["state"] == "RUNNING" and part["pid"] > 0 for part in report["parts"])
    assert report["url"] == service.base_url
    assert report["waiting"] == 0
    assert "envoy" in tidegate("status").stdout


def test_status_of_a_folder_where_nothing_runs_is_exit_3(tidegate: Tidegate, tmp_path: Path) -> None:
    result = tidegate("status", "--var", str(tmp_path), TIDEGATE_PORT="1")
    assert result.returncode == 3


def test_doctor_finds_this_machine_fit(tidegate: Tidegate) -> None:
    result = tidegate("doctor")
    assert result.returncode == 0, result.stdout
    assert "FAIL" not in result.stdout


def test_a_second_start_in_the_same_folder_is_refused(tidegate: Tidegate) -> None:
    result = tidegate("up")
    assert result.returncode == 2
    assert "TIDEGATE_VAR" in result.stdout + result.stderr


def test_ctrl_c_leaves_nothing_half_done(
    folder: Path, environment: dict[str, str], tidegate: Tidegate, service: Any
) -> None:
    big = folder / "many"
    big.mkdir()
    for number in range(NUM_FILES):
        (big / f"{number:03}.md").write_text(
            f"# Buoy {number}\n\n" + f"Buoy {number} blinks every four seconds. " * 40
        )
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "ingest", "many", "-c", f"{COLLECTION}-many"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        wait_until(lambda: num_attached(service) > 4)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    result = tidegate("ingest", "many", "-c", f"{COLLECTION}-many", "--json")
    summary = json.loads(result.stdout)
    assert summary["failed"] == {}
    assert len(summary["added"]) + len(summary["unchanged"]) == NUM_FILES


def num_attached(service: Any) -> int:
    headers = {"authorization": f"Bearer {service.api_key}"}
    stores = httpx.get(f"{service.base_url}/v1/vector_stores", headers=headers, timeout=30).json()["data"]
    return sum(store["file_counts"]["total"] for store in stores if store["name"] == f"{COLLECTION}-many")


def wait_until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    deadline_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline_s, "not so in time"
        time.sleep(0.02)
