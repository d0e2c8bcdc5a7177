"""The arms: tidegate and its peers, all before the same model. Each runs while its block does.

tidegate    the whole service; the model is a tier of it with as many slots as the engine has
unshedded   the same, but that it holds nobody back: the engine's endless line is the only one
nginx       nginx with limit_conn before the worker of an unshedded one
litellm     the LiteLLM proxy before the engine
envoy       a bare Envoy before the engine
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.cli.client import Target
from gateway.settings import load_settings
from gateway.supervise.binaries import find_envoy
from gateway.supervise.samples import ingest_samples
from perf import litellm_proxy
from perf.load.client import Endpoint
from perf.load.scenario import Model, Scenario
from perf.profile import processor_seconds
from perf.service import Service, free_port, is_answering, running_service

ROOT = Path(__file__).parents[2]
TIER = "engine"
NO_LIMIT = 100_000
MAX_TIER_SLOTS = 1024
START_S = 30.0
# Every tenant has the README, so that retrieval has something to find for each of these.
QUESTIONS = [
    "What does a tide gate do?",
    "How do I start the service?",
    "Which command makes an API key?",
    "Where does the page show the sources of an answer?",
    "Which folder holds snapshots of the index?",
    "What does the last chunk of a stream carry?",
    "How is a second instance started?",
    "Which vector database is used beyond one node?",
]


class ArmMissing(RuntimeError):
    """The arm cannot run on this machine. The text says what is missing."""


@dataclass(frozen=True)
class Arm:
    """A running arm. engine_port: of the model behind it; 0 = another model. service: of tidegate, for profiles."""

    endpoint: Endpoint
    engine_port: int = 0
    service: Service | None = None

    def processor_seconds(self) -> dict[str, float]:
        return processor_seconds(self.service) if self.service else {}


@contextmanager
def running(name: str, scenario: Scenario) -> Iterator[Arm]:
    """Raises: ArmMissing."""
    with _ARMS[name](scenario) as arm:
        yield arm


@contextmanager
def engine(model: Model, *, is_shut: bool = False) -> Iterator[int]:
    """The engine's port."""
    port = free_port()
    argv = [sys.executable, "-m", "perf.load.engine", str(port), "--slots", str(model.slots)]
    argv += ["--gap-ms", str(model.gap_ms), "--prefill-ms", str(model.prefill_ms)]
    with process([*argv, *(["--shut"] if is_shut else [])], f"http://127.0.0.1:{port}/v1/models"):
        yield port


@contextmanager
def tidegate(scenario: Scenario, name: str = "tidegate", *, is_shut: bool = False) -> Iterator[Arm]:
    with tempfile.TemporaryDirectory(prefix="tidegate-load-") as folder:
        if scenario.model.backend == "fast":
            explicit: dict[str, Any] = {"fast_slots": scenario.model.slots} | _settings(scenario)
            with running_service(**explicit) as service:
                yield _ours(name, service, "fast", scenario, 0)
            return
        with engine(scenario.model, is_shut=is_shut) as port:
            slots = MAX_TIER_SLOTS if name != "tidegate" else scenario.model.slots
            tiers = Path(folder) / "tiers.toml"
            tiers.write_text(tiers_file(port, slots, scenario.patience_s))
            with running_service(tiers_file=str(tiers), **_settings(scenario)) as service:
                yield _ours(name, service, TIER, scenario, port)


@contextmanager
def unshedded(scenario: Scenario, name: str = "unshedded") -> Iterator[Arm]:
    import msgspec

    free = {"queue_max": NO_LIMIT, "queue_ttl_s": 3600.0, "retrieval_slots": NO_LIMIT, "fast_slots": 10_000}
    settings = {**scenario.settings, **free}
    with tidegate(msgspec.structs.replace(scenario, settings=settings), name) as arm:
        yield arm


@contextmanager
def nginx(scenario: Scenario) -> Iterator[Arm]:
    import msgspec

    binary = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if binary is None:
        raise ArmMissing("nginx is not installed (apt-get install nginx-light)")
    limit = scenario.nginx_connections or 2 * scenario.model.slots
    with (
        unshedded(scenario, "nginx") as behind,
        tempfile.TemporaryDirectory(prefix="tidegate-nginx-") as folder,
    ):
        assert behind.service is not None
        port, config = free_port(), Path(folder) / "nginx.conf"
        config.write_text(nginx_config(Path(folder), port, behind.service.settings.worker_port(0), limit))
        argv = [binary, "-c", str(config), "-p", folder, "-g", "daemon off;"]
        with process(argv, f"http://127.0.0.1:{port}/health/ready"):
            endpoint = msgspec.structs.replace(behind.endpoint, port=port)
            yield Arm(endpoint, behind.engine_port, behind.service)


@contextmanager
def litellm(scenario: Scenario) -> Iterator[Arm]:
    if not litellm_proxy.is_installed():
        raise ArmMissing("LiteLLM's environment is not there (scripts/tools litellm)")
    with engine(scenario.model) as port, litellm_proxy.litellm_proxy(port) as proxy:
        yield Arm(_peer("litellm", proxy.port, {"": proxy.key}), port)


@contextmanager
def envoy(scenario: Scenario) -> Iterator[Arm]:
    with engine(scenario.model) as port, tempfile.TemporaryDirectory(prefix="tidegate-envoy-") as folder:
        public, config = free_port(), Path(folder) / "envoy.json"
        config.write_text(json.dumps(envoy_config(public, port)))
        binary = str(find_envoy(load_settings({})))
        argv = [binary, "-c", str(config), "--use-dynamic-base-id", "--log-level", "error"]
        with process(argv, f"http://127.0.0.1:{public}/v1/models"):
            yield Arm(_peer("envoy", public, {}), port)


_ARMS: dict[str, Callable[[Scenario], Any]] = {
    "tidegate": tidegate,
    "unshedded": unshedded,
    "nginx": nginx,
    "litellm": litellm,
    "envoy": envoy,
}


def _settings(scenario: Scenario) -> dict[str, Any]:
    return {"gateway_workers": 1, "log_level": "warning", **scenario.settings}


def _ours(name: str, service: Service, model: str, scenario: Scenario, engine_port: int) -> Arm:
    """With a key and a document for every tenant."""
    tenants = [tenant for source in scenario.sources for tenant in source.tenants]
    keys = {tenant: service.new_key(tenant) for tenant in tenants}
    for key in keys.values():
        ingest_samples(
            Target(service.base_url, key, is_direct=True), [ROOT / "README.md"], lambda _: None, lambda: False
        )
    endpoint = Endpoint(
        arm=name,
        port=service.settings.port,
        model=model,
        keys=keys,
        is_ours=True,
        questions=QUESTIONS,
        checks_text=bool(engine_port),
    )
    return Arm(endpoint, engine_port, service)


def _peer(name: str, port: int, keys: dict[str, str]) -> Endpoint:
    return Endpoint(
        arm=name, port=port, model="relay", keys=keys, is_ours=False, questions=QUESTIONS, checks_text=True
    )


def tiers_file(port: int, slots: int, patience_s: float) -> str:
    """The engine as a tier: an OpenAI-compatible server. Its line may be long, so nothing gives up before a caller."""
    return (
        f"[{TIER}]\n"
        f'base_url = "http://127.0.0.1:{port}/v1"\n'
        'model = "relay"\n'
        f"slots = {slots}\n"
        "context_tokens = 8192\n"
        f"first_token_s = {patience_s + 60:g}\n"
        f"between_tokens_s = 60\n"
        "continues = true\n"
        "fallback = []\n"  # what is measured is this tier
    )


def nginx_config(folder: Path, port: int, upstream: int, limit: int) -> str:
    """limit: connections (= requests in flight, over HTTP/1.1) that pass; more get 503."""
    return f"""
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  limit_conn_zone $server_name zone=all:1m;
  upstream gateway {{ server 127.0.0.1:{upstream}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    server_name all;
    location / {{
      limit_conn all {limit};
      limit_conn_status 503;
      proxy_pass http://gateway;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host 127.0.0.1;
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def envoy_config(port: int, upstream: int) -> dict[str, Any]:
    """One listener, one route, one cluster; circuit breakers as good as off."""
    kinds = "type.googleapis.com/envoy.extensions.filters"
    router = {"@type": f"{kinds}.http.router.v3.Router"}
    manager = {
        "@type": f"{kinds}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bare",
        "stream_idle_timeout": "600s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "engine", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    wide = {"max_connections": NO_LIMIT, "max_pending_requests": NO_LIMIT, "max_requests": NO_LIMIT}
    cluster = {
        "name": "engine",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [wide]},
        "load_assignment": {
            "cluster_name": "engine",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(upstream)}}]}],
        },
    }
    listener = {
        "name": "bare",
        "address": _address(port),
        "tcp_backlog_size": 4096,
        "filter_chains": [{"filters": filters}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def process(argv: list[str], ready_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ready once the address answers. Raises: RuntimeError with its own words if it is not."""
    with tempfile.TemporaryFile() as log:
        started = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_S
            while not is_answering(ready_url):
                if started.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise RuntimeError(
                        f"{argv[0]} did not start:\n{log.read()[-3000:].decode(errors='replace')}"
                    )
                time.sleep(0.05)
            yield started
        finally:
            started.terminate()
            try:
                started.wait(10)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
