"""Who watches the service: metrics, traces, alerts."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    watch: bool = setting(
        False,
        "Start Prometheus and Alertmanager beside the service, where they are installed (docs/watching.md).",
    )
    otlp_endpoint: str = setting(
        "",
        "Base URL of an OpenTelemetry collector, which takes traces over HTTP, such as http://127.0.0.1:4318; empty = "
        "what OTEL_EXPORTER_OTLP_ENDPOINT says, and no traces without it (docs/watching.md).",
    )
    alert_actions: str = setting(
        "on",
        "What is done about alerts that Alertmanager sends to /admin/alerts: `on` what they ask for; `dry_run` an "
        "audit line and nothing more.",
        choices=("on", "dry_run"),
    )
