"""`tidegate run` with the parts of a cluster, each a process of its own: they answer together, and each stops."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.settings import Settings, load_settings
from tests.fakes.parts import ROOT, PartProcess, running_part
from tests.fakes.redis_process import running_redis
from tests.integration.supervise.test_edge import port_with_room

pytestmark = [pytest.mark.usefixtures("triton_installed"), pytest.mark.timeout(300)]

STOP_S = 20.0  # drains that wait for nobody, Triton's own end, and a busy machine
DOCUMENT = (
    "The key of the tide gate is kept in the blue cabinet of the pump house. The harbour master has another."
)
QUESTION = "Where is the key of the tide gate kept?"


@dataclass
class Cluster:
    parts: dict[str, PartProcess]
    url: str
    key: str

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


def two_ports() -> tuple[int, int]:
    """For Triton with its balancer, and for the worker with the edge: two Envoys on one machine."""
    first = port_with_room(307)
    for second in range(first + 1000, 60_000 - 1000, 37):
        try:
            for offset in (0, 1, 2, 10, 290, 610):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", second + offset))
        except OSError:
            continue
        return first, second
    raise RuntimeError("no free ports")


@pytest.fixture(scope="module")
def cluster(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("parts")
    inner, outer = two_ports()
    common: dict[str, object] = {
        "var": folder / "var",
        "triton_hosts": "127.0.0.1",
        "part_host": "0.0.0.0",
        "auth": "required",
        "embed_threads": 1,
        "index_threads": 1,
        "drain_s": 10.0,
    }
    (folder / "var" / "models").mkdir(parents=True)
    for model in models_dir.glob("embed-*"):
        (folder / "var" / "models" / model.name).symlink_to(model)
    with running_redis(folder) as redis:
        common["redis_url"] = redis.url
        below = load_settings({}, port=inner, **common)
        above = load_settings({}, port=outer, inner_port=inner + 1, gateway_host="127.0.0.1", **common)
        migrate(above)
        made = run(["keys", "create", "--tenant", "harbour", "--name", "test"], above.environment())
        with (
            running_part("triton", below) as triton,
            running_part("balancer", below) as balancer,
            running_part("gateway", above) as gateway,
            running_part("ingest", above) as ingest,
            running_part("edge", above) as edge,
        ):
            triton.until_ready(f"http://127.0.0.1:{below.triton_ports(0)[3]}/")
            balancer.until_ready(f"http://127.0.0.1:{below.envoy_stats_port}/ready")
            gateway.until_ready(f"http://127.0.0.1:{above.worker_port(0)}/health/ready")
            ingest.until_output("ready")
            edge.until_ready(f"http://127.0.0.1:{above.port}/health/ready")
            parts = [triton, balancer, gateway, ingest, edge]
            yield Cluster(
                {each.name: each for each in parts}, f"http://127.0.0.1:{above.port}", made.stdout.strip()
            )


def migrate(settings: Settings) -> None:
    done = run(["migrate"], settings.environment())
    assert done.returncode == 0, done.stderr


def run(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
    return subprocess.run(
        [sys.executable, "-m", "gateway", *words],
        env=kept | environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def fill(client: httpx.Client) -> str:
    """A collection with one document, which the ingest worker has read."""
    store = client.post("/v1/vector_stores", json={"name": "harbour"}).json()["id"]
    file = client.post(
        "/v1/files", files={"file": ("gate.txt", DOCUMENT.encode())}, data={"purpose": "assistants"}
    ).json()["id"]
    attached = f"/v1/vector_stores/{store}/files"
    client.post(attached, json={"file_id": file}).raise_for_status()
    deadline_s = time.monotonic() + 60
    while (status := client.get(f"{attached}/{file}").json()["status"]) != "completed":
        assert status == "in_progress"
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return str(store)


def ask(client: httpx.Client, store: str, question: str = QUESTION) -> str:
    body = {
        "model": "fast",
        "messages": [{"role": "user", "content": question}],
        "tidegate": {"collections": [store], "cache": "off"},
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_the_parts_answer_together_and_each_ends_when_told(cluster: Cluster) -> None:
    with cluster.client() as client:
        store, deadline_s = fill(client), time.monotonic() + 10
        while "blue cabinet" not in (answer := ask(client, store)):  # `search` follows the database
            assert time.monotonic() < deadline_s, answer
            time.sleep(0.1)
    for name in ("edge", "ingest", "gateway", "balancer", "triton"):  # from the door inwards
        part = cluster.parts[name]
        assert part.process.poll() is None, part.output[-2000:]
        part.terminate()
        assert part.end(STOP_S) == 0, part.output[-4000:]
        assert "Traceback" not in part.output


@pytest.mark.parametrize("name", ["gateway", "ingest"])
def test_a_part_starts_and_stops_without_its_neighbours(name: str, tmp_path: Path) -> None:
    """In a cluster none can count on the others' being there first."""
    settings = load_settings(
        {}, var=tmp_path, port=port_with_room(610), redis_url="redis://127.0.0.1:1/0", drain_s=2.0
    )
    migrate(settings)
    with running_part(name, settings) as part:
        if name == "gateway":
            part.until_ready(f"http://127.0.0.1:{settings.worker_port(0)}/health/live")
            assert httpx.get(f"http://127.0.0.1:{settings.worker_port(0)}/health/ready").status_code == 503
        else:
            part.until_output("ready")
        part.terminate()
        assert part.end(STOP_S) == 0, part.output[-4000:]


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["edge"], {}, "tidegate: TIDEGATE_GATEWAY_HOST is not set: say where the edge sends requests.\n"),
        (
            ["balancer"],
            {},
            "tidegate: TIDEGATE_TRITON_HOSTS is not set: say where the balancer sends requests.\n",
        ),
        (
            ["edge"],
            {"TIDEGATE_GATEWAY_HOST": "gateway", "TIDEGATE_ENVOY_BIN": "/nowhere/envoy"},
            "tidegate: TIDEGATE_ENVOY_BIN=/nowhere/envoy does not exist.\n",
        ),
        (
            ["triton"],
            {"TIDEGATE_TRITON_HOME": "/nowhere"},
            "tidegate: TIDEGATE_TRITON_HOME=/nowhere does not exist.\n",
        ),
        (
            ["triton"],
            {"TIDEGATE_TRITON_SERVES": "retrieval,huge"},
            "tidegate: TIDEGATE_TRITON_SERVES names 'huge', which is no generative tier here.\n",
        ),
        (
            ["gateway"],
            {"TIDEGATE_PART_HOST": "0.0.0.0"},
            "tidegate: TIDEGATE_PART_HOST=0.0.0.0 is not loopback: set TIDEGATE_AUTH=required as well.\n",
        ),
        (
            ["ingest"],
            {"TIDEGATE_NOSE": "1"},
            "tidegate: TIDEGATE_NOSE is not a setting; `tidegate settings` lists all",
        ),
        (["harbour"], {}, "'harbour' is not one of 'gateway', 'ingest', 'triton', 'edge', 'balancer'"),
    ],
    ids=["edge", "balancer", "no-envoy", "no-triton", "no-tier", "open-host", "no-setting", "no-part"],
)
def test_what_cannot_start_says_so_in_a_sentence(
    words: list[str], environment: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = run(["run", *words], {"TIDEGATE_VAR": str(tmp_path)} | environment)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["gateway", "triton"])
def test_a_port_that_is_taken_is_named_in_a_sentence(name: str, tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path, port=port_with_room(610), redis_url="redis://127.0.0.1:1/0")
    migrate(settings)
    port = settings.worker_port(0) if name == "gateway" else settings.triton_ports(0)[3]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        done = run(["run", name], settings.environment())
    assert done.returncode == 2
    said = f"A port of the {name} is taken by another process: set TIDEGATE_PORT to another one."
    assert said in done.stderr
    assert "Traceback" not in done.stderr
