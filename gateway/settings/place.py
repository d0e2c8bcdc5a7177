"""Where this service is and who may call it: folders, addresses, ports, logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.settings.formats import hosts
from gateway.settings.row import setting

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, kw_only=True)
class PlaceSettings:
    var: Path = setting(Path("var"), "Folder of all state: database, files, models, logs.")
    host: str = setting(
        "127.0.0.1",
        "Address that Envoy's public listener binds. Anything but loopback needs TIDEGATE_AUTH=required.",
    )
    port: int = setting(8080, "Public port of Envoy. The other ports follow it.", minimum=1, maximum=65000)
    inner_port: int = setting(
        0,
        "Loopback port of Envoy's gRPC balancer over the Triton replicas; 0 = port + 1.",
        minimum=0,
        maximum=65535,
    )
    part_host: str = setting(
        "127.0.0.1",
        "Address that gateway workers and Triton with its guard bind; in a cluster, where each part has an address of "
        "its own, 0.0.0.0. Anything but loopback needs TIDEGATE_AUTH=required.",
    )
    gateway_host: str = setting(
        "",
        "DNS name of whose addresses each is a gateway worker, where the workers run elsewhere (docs/deploy.md); "
        "empty = they run here.",
    )
    triton_hosts: str = setting(
        "",
        "DNS names of whose addresses each is a Triton replica, where they run elsewhere: HOST for retrieval and "
        "quoting, then TIER=HOST for each generative tier (docs/deploy.md); empty = they run here.",
    )
    canary_hosts: str = setting(
        "",
        "As TIER=HOST,TIER=HOST: where a tier's canary runs. While it has replicas it gets the share of "
        "conversations that TIDEGATE_CANARY_PERCENT names; a conversation stays on one side.",
    )
    canary_percent: int = setting(
        5, "Share of conversations that a tier's canary gets (percent).", minimum=1, maximum=50
    )
    triton_serves: str = setting(
        "",
        "What this Triton loads, as NAME,NAME: `retrieval` (searching and quoting), or generative tiers by name; "
        "empty = everything.",
    )
    model_version: str = setting(
        "",
        "Version of the models that this Triton serves, as its rollout names it (docs/deploy.md): letters, digits, "
        "`.`, `_` and `-`. Answers are remembered and judged by it.",
    )
    auth: str = setting(
        "development",
        "`development`: loopback callers without a key are the default tenant; `required`: every call needs a key.",
        choices=("development", "required"),
    )
    log_level: str = setting(
        "info", "Log level of our own processes.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = setting(
        "json", "Log lines of our own processes: one JSON object each, or text.", choices=("json", "text")
    )

    # Derived ports: one block above the public port.

    @property
    def triton_target(self) -> str:
        return f"127.0.0.1:{self.inner_port or self.port + 1}"

    @property
    def envoy_admin_port(self) -> int:
        return self.port + 2

    @property
    def redis_port(self) -> int:
        return self.port + 3

    @property
    def supervisor_port(self) -> int:
        return self.port + 4

    @property
    def prometheus_port(self) -> int:
        return self.port + 280

    @property
    def alertmanager_port(self) -> int:
        return self.port + 281

    @property
    def envoy_stats_port(self) -> int:
        """Where an Envoy that runs by itself tells its metrics."""
        return self.port + 290

    def edge_admin_port(self, index: int) -> int:
        """Of one of the Envoy processes; the first one's is envoy_admin_port."""
        return self.envoy_admin_port if index == 0 else self.port + 4 + index

    def worker_port(self, index: int) -> int:
        return self.port + 10 + index

    def worker_grpc_port(self, index: int) -> int:
        return self.port + 600 + index

    def triton_ports(self, replica: int) -> tuple[int, int, int, int]:
        """gRPC, HTTP, metrics and guard-health ports of one replica."""
        base = self.port + 300 + 4 * replica
        return base, base + 1, base + 2, base + 3

    @property
    def hosts_of_triton(self) -> dict[str, str]:
        """DNS name of the replicas by generative tier; "" = retrieval and quoting. Empty when Triton runs here."""
        return hosts(self.triton_hosts, "TRITON_HOSTS")

    @property
    def hosts_of_canaries(self) -> dict[str, str]:
        """DNS name of a tier's canaries by the tier's name."""
        return hosts(self.canary_hosts, "CANARY_HOSTS")

    @property
    def files_dir(self) -> Path:
        return self.var / "files"

    @property
    def search_dir(self) -> Path:
        """Work folders of the search processes and the snapshot that they start from."""
        return self.var / "search"

    @property
    def models_dir(self) -> Path:
        return self.var / "models"

    @property
    def run_dir(self) -> Path:
        return self.var / "run"

    @property
    def log_dir(self) -> Path:
        return self.var / "log"

    def edge_access_log(self, index: int) -> Path:
        return self.log_dir / (f"envoy-access-{index}.log" if index else "envoy-access.log")
