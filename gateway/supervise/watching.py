"""Prometheus and Alertmanager beside the service on one machine (TIDEGATE_WATCH): found, configured, started.

Rules and routes are those of the cluster, from k8s/components/monitoring; only addresses and the key differ.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from gateway.settings import Settings
from gateway.supervise import credentials
from gateway.supervise.assets import Assets

PROMETHEUS = ("prometheus",)
ALERTMANAGER = ("prometheus-alertmanager", "alertmanager")  # Debian's name, the project's own
RETENTION = "15d"  # above the three days that the longest SLO window looks back
EVERY = "5s"
# What k8s/components/monitoring/alertmanager/alertmanager.yaml has in their place.
CLUSTER_URL = "http://gateway:8090/admin/alerts"
CLUSTER_KEY_FILE = "/etc/alertmanager/secrets/tidegate-admin-key/key"
CLUSTER_RULES = "cluster.yaml"  # about objects that only a cluster has


def is_watched(settings: Settings) -> bool:
    """Asked for, and there."""
    return settings.watch and not missing()


def missing() -> str:
    """One sentence when Prometheus or Alertmanager is not installed; else empty."""
    if _find(PROMETHEUS) and _find(ALERTMANAGER):
        return ""
    return (
        "TIDEGATE_WATCH is set, but Prometheus and Alertmanager are not both installed (Debian: prometheus, "
        "prometheus-alertmanager): the service starts without them."
    )


def _find(names: tuple[str, ...]) -> str:
    return next((path for path in map(shutil.which, names) if path), "")


def commands(settings: Settings) -> dict[str, list[str]]:
    """argv by the program's name; empty where nothing is watched."""
    if not is_watched(settings):
        return {}
    data, run = settings.var / "watch", settings.run_dir
    return {
        "alertmanager": [
            _find(ALERTMANAGER),
            f"--config.file={run / 'alertmanager.yml'}",
            f"--storage.path={data / 'alertmanager'}",
            f"--web.listen-address=127.0.0.1:{settings.alertmanager_port}",
            "--cluster.listen-address=",  # alone, so no gossip port
            "--log.level=warn",
        ],
        "prometheus": [
            _find(PROMETHEUS),
            f"--config.file={run / 'prometheus.yml'}",
            f"--storage.tsdb.path={data / 'prometheus'}",
            f"--storage.tsdb.retention.time={RETENTION}",
            f"--web.listen-address=127.0.0.1:{settings.prometheus_port}",
            "--log.level=warn",
        ],
    }


def configuration(settings: Settings, assets: Assets) -> dict[str, str]:
    """Text by file name in the run folder; empty where nothing is watched."""
    if not is_watched(settings):
        return {}
    return {
        "prometheus.yml": json.dumps(_prometheus(settings, assets), indent=1) + "\n",  # JSON is YAML
        "alertmanager.yml": _alertmanager(settings, assets),
    }


def _prometheus(settings: Settings, assets: Assets) -> dict[str, Any]:
    def job(name: str, ports: list[int], **more: Any) -> dict[str, Any]:
        targets = [f"127.0.0.1:{port}" for port in ports]
        return {"job_name": name, "static_configs": [{"targets": targets}], **more}

    rules = sorted(path for path in assets.rules.glob("*.yaml") if path.name != CLUSTER_RULES)
    replicas = range(settings.triton_replicas)
    return {
        "global": {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY},
        "rule_files": [str(path) for path in rules],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{settings.alertmanager_port}"]}]}]
        },
        "scrape_configs": [
            job("tidegate-gateway", [settings.worker_port(index) for index in range(settings.num_workers)]),
            job("tidegate-triton", [settings.triton_ports(index)[2] for index in replicas]),
            job(
                "tidegate-envoy",
                [settings.edge_admin_port(index) for index in range(settings.edge_processes)],
                metrics_path="/stats/prometheus",
            ),
            job("alertmanager", [settings.alertmanager_port]),
        ],
    }


def _alertmanager(settings: Settings, assets: Assets) -> str:
    host = "127.0.0.1" if settings.host in {"localhost", "0.0.0.0", "::"} else settings.host  # noqa: S104
    host = f"[{host}]" if ":" in host else host
    text = assets.alertmanager.read_text("utf-8")
    key_file = settings.var / "secrets" / credentials.ALERTS_KEY
    text = text.replace(CLUSTER_URL, f"http://{host}:{settings.port}/admin/alerts")
    return text.replace(CLUSTER_KEY_FILE, json.dumps(str(key_file)))
