"""Envoy's own spans: where it sends them, and whose requests get any.

At the edge Envoy decides as a worker does by OpenTelemetry's OTEL_TRACES_SAMPLER, and the worker goes by what it is
handed: of a trace both are there, or neither. Towards Triton Envoy only ever follows the worker.
"""

from __future__ import annotations

import ipaddress
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from gateway.settings import Settings
from gateway.tracing.endpoint import traces_url

EDGE, BALANCER = "tidegate-edge", "tidegate-balancer"
DEFAULT_SAMPLER = "parentbased_always_on"
DEFAULT_DELAY_MS = 5000


@dataclass(frozen=True)
class EnvoyTracing:
    """The collector, and the edge's part in sampling.

    root_percent: of requests that bring no trace, 0..100; None = the edge has no spans, for it cannot know what the
    worker decides. ignores_clients: a client's wish not to be traced does not count. headers: the collector's own,
    which may be secret. flush_ms: how long a span waits for others.
    """

    url: str
    host: str
    port: int
    is_tls: bool
    ca_file: str
    headers: tuple[tuple[str, str], ...]
    root_percent: float | None
    ignores_clients: bool
    flush_ms: int

    @property
    def is_address(self) -> bool:
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


def envoy_tracing(settings: Settings, environ: Mapping[str, str] | None = None) -> EnvoyTracing | None:
    """None where traces are off. Raises: SettingsError."""
    environ = os.environ if environ is None else environ
    url = traces_url(settings, environ)
    if not url:
        return None
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    return EnvoyTracing(
        url=url,
        host=str(parts.hostname),
        port=parts.port or (443 if is_tls else 80),
        is_tls=is_tls,
        ca_file=_ca_file(environ) if is_tls else "",
        headers=_headers(environ),
        root_percent=_root_percent(sampler, environ),
        ignores_clients=sampler == "always_on",
        flush_ms=_flush_ms(environ),
    )


def _root_percent(sampler: str, environ: Mapping[str, str]) -> float | None:
    """What is no sampler's name means the default one, as it does to a worker."""
    if sampler in {"traceidratio", "always_off"}:
        return None  # by the trace's number, in a way that is the worker's own; or never
    if sampler == "parentbased_always_off":
        return 0.0
    if sampler != "parentbased_traceidratio":
        return 100.0
    try:
        share = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    except ValueError:
        return 100.0
    return round(share * 100, 2) if math.isfinite(share) and 0 <= share <= 1 else 100.0


def _headers(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """As the workers' exporter reads them."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")
    text = next((environ[name] for name in names if name in environ), "")
    if not text:
        return ()
    from opentelemetry.util.re import parse_env_headers  # for those alone whose collector asks for them

    return tuple(parse_env_headers(text, liberal=True).items())


def _ca_file(environ: Mapping[str, str]) -> str:
    """Whose certificates count: the operator's, else those that the workers believe."""
    names = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
    told = next((environ[name] for name in names if environ.get(name)), "")
    if told:
        return told
    import certifi

    return str(certifi.where())


def _flush_ms(environ: Mapping[str, str]) -> int:
    text = environ.get("OTEL_BSP_SCHEDULE_DELAY", "").strip()
    return int(text) if text.isascii() and text.isdecimal() and int(text) else DEFAULT_DELAY_MS
