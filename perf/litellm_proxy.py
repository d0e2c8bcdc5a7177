"""The LiteLLM proxy in its own environment, in front of perf.upstream; both run while the block does."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path

from perf.service import free_port, is_answering

ROOT = Path(__file__).parents[1]
ENVIRONMENT = ROOT / ".venv" / "litellm"
PATH = "/v1/chat/completions"
START_S = 90.0


@dataclass(frozen=True)
class Proxy:
    port: int
    upstream_port: int
    key: str = field(repr=False)
    pid: int = 0

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


def is_installed() -> bool:
    return (ENVIRONMENT / "bin" / "litellm").exists()


def version() -> str:
    found = metadata.distributions(
        name="litellm", path=[str(p) for p in ENVIRONMENT.glob("lib/python3*/site-packages")]
    )
    return next((each.version for each in found), "unknown")


@contextmanager
def litellm_proxy(upstream_port: int = 0, *, num_workers: int = 1) -> Iterator[Proxy]:
    """upstream_port: of a model that runs already; 0 = perf.upstream, started with it.

    Raises: RuntimeError with the proxy's own words when it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="tidegate-litellm-") as folder:
        proxy = Proxy(free_port(), upstream_port or free_port(), f"sk-{secrets.token_hex(16)}")
        config = Path(folder) / "config.yaml"  # JSON is YAML
        config.write_text(json.dumps(_config(proxy)))
        started: list[subprocess.Popen[bytes]] = []
        if not upstream_port:
            argv = [sys.executable, "-m", "perf.upstream", str(proxy.upstream_port)]
            started.append(subprocess.Popen(argv, cwd=ROOT))
        argv = [str(ENVIRONMENT / "bin" / "litellm"), "--config", str(config), "--host", "127.0.0.1"]
        argv += ["--port", str(proxy.port), "--num_workers", str(num_workers)]
        log = Path(folder) / "log"
        with log.open("wb") as out:
            server = subprocess.Popen(argv, env=_environment(folder), cwd=folder, stdout=out, stderr=out)
        try:
            _wait(server, f"http://127.0.0.1:{proxy.port}/health/liveliness", log)
            yield replace(proxy, pid=server.pid)
        finally:
            for process in (server, *started):
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _config(proxy: Proxy) -> dict[str, object]:
    upstream = {
        "model": "openai/relay",
        "api_base": f"http://127.0.0.1:{proxy.upstream_port}/v1",
        "api_key": "none",
    }
    return {
        "model_list": [{"model_name": "relay", "litellm_params": upstream}],
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": proxy.key},
    }


def _environment(home: str) -> dict[str, str]:
    return {
        "PATH": os.pathsep.join([str(ENVIRONMENT / "bin"), os.defpath]),
        "HOME": home,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # the one in the package: nothing is fetched
        "LITELLM_LOG": "ERROR",
        "NO_PROXY": "127.0.0.1",
    }


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not is_answering(url):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the LiteLLM proxy did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)
