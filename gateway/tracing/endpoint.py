"""Where traces go: TIDEGATE_OTLP_ENDPOINT, or OpenTelemetry's own variables, as its specification reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from gateway.settings import Settings, SettingsError
from gateway.tracing.spans import Tracer

OURS = "TIDEGATE_OTLP_ENDPOINT"
TRACES, ALL_SIGNALS = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL = "http/protobuf"
PATH = "v1/traces"


def make_tracer(settings: Settings, count: Callable[[str, int], None]) -> Tracer | None:
    """None where traces are off. count: told what became of how many spans. Raises: SettingsError."""
    url = traces_url(settings)
    if not url:
        return None
    from gateway.tracing.otlp import otlp_tracer  # some megabytes, for those alone who trace

    return otlp_tracer(url, count)


def traces_url(settings: Settings, environ: Mapping[str, str] | None = None) -> str:
    """The full URL that takes traces; empty = traces are off.

    Raises: SettingsError for what is no URL, and for a protocol that is not spoken here.
    """
    environ = os.environ if environ is None else environ
    if _is_off(environ):
        return ""
    if own := environ.get(TRACES, "").strip():
        found, name = own, TRACES  # the one that is taken as it is
    else:
        found, name = environ.get(ALL_SIGNALS, "").strip(), ALL_SIGNALS
        found = _with_path(found)
    if settings.otlp_endpoint:
        found, name = _with_path(settings.otlp_endpoint), OURS
    if found:
        _check(found, name, environ)
    return found


def _is_off(environ: Mapping[str, str]) -> bool:
    is_disabled = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return is_disabled or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _with_path(base: str) -> str:
    return f"{base.rstrip('/')}/{PATH}" if base else ""


def _check(url: str, name: str, environ: Mapping[str, str]) -> None:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url or parts.username or parts.password:
        raise SettingsError(f"{name} is not a URL such as http://127.0.0.1:4318, without credentials.")
    for variable in PROTOCOLS:
        protocol = environ.get(variable, "").strip()
        if protocol and protocol != PROTOCOL:
            raise SettingsError(f"{variable}={protocol!r}: traces are sent as {PROTOCOL} alone.")
