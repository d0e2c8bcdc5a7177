"""What OpenTelemetry's variables mean for Envoy."""

from __future__ import annotations

from pathlib import Path

import certifi
import pytest

from gateway.settings import SettingsError, load_settings
from gateway.supervise.envoy_tracing import EnvoyTracing, envoy_tracing

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
SAMPLER, SHARE = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"


def tracing(tmp_path: Path, **environ: str) -> EnvoyTracing:
    found = envoy_tracing(load_settings({}, var=tmp_path), ENDPOINT | environ)
    assert found is not None
    return found


def test_without_an_endpoint_there_are_no_spans(tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path)
    assert envoy_tracing(settings, {}) is None
    assert envoy_tracing(settings, ENDPOINT | {"OTEL_SDK_DISABLED": "true"}) is None


@pytest.mark.parametrize(
    ("environ", "percent", "ignores_clients"),
    [
        ({}, 100.0, False),
        ({SAMPLER: "parentbased_always_on"}, 100.0, False),
        ({SAMPLER: "Always_On"}, 100.0, True),
        ({SAMPLER: "always_off"}, None, False),
        ({SAMPLER: "parentbased_always_off"}, 0.0, False),
        ({SAMPLER: "traceidratio", SHARE: "0.5"}, None, False),
        ({SAMPLER: "parentbased_traceidratio", SHARE: "0.125"}, 12.5, False),
        ({SAMPLER: "parentbased_traceidratio"}, 100.0, False),
        ({SAMPLER: "parentbased_traceidratio", SHARE: "much"}, 100.0, False),
        ({SAMPLER: "parentbased_traceidratio", SHARE: "nan"}, 100.0, False),
        ({SAMPLER: "parentbased_traceidratio", SHARE: "3"}, 100.0, False),
        ({SAMPLER: "nobody's"}, 100.0, False),
    ],
)
def test_the_edge_samples_as_the_workers_do(
    tmp_path: Path, environ: dict[str, str], percent: float | None, ignores_clients: bool
) -> None:
    found = tracing(tmp_path, **environ)
    assert (found.root_percent, found.ignores_clients) == (percent, ignores_clients)


@pytest.mark.parametrize(
    ("url", "host", "port", "is_tls", "is_address"),
    [
        ("http://127.0.0.1:4318", "127.0.0.1", 4318, False, True),
        ("http://[::1]:4318", "::1", 4318, False, True),
        ("http://otel-collector.monitoring", "otel-collector.monitoring", 80, False, False),
        ("https://otel.example/ingest", "otel.example", 443, True, False),
    ],
)
def test_the_collector_is_where_the_url_says(
    tmp_path: Path, url: str, host: str, port: int, is_tls: bool, is_address: bool
) -> None:
    found = tracing(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert (found.host, found.port, found.is_tls, found.is_address) == (host, port, is_tls, is_address)
    assert found.url == f"{url}/v1/traces"
    assert found.ca_file == (certifi.where() if is_tls else "")


def test_headers_and_certificates_of_traces_come_before_those_of_all(tmp_path: Path) -> None:
    both = {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20all",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/all.pem",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://otel.example",
    }
    assert tracing(tmp_path, **both).headers == (("authorization", "Bearer all"),)
    assert tracing(tmp_path, **both).ca_file == "/all.pem"
    own = both | {
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "X-Key=traces,x-team=tides",
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE": "/traces.pem",
    }
    assert tracing(tmp_path, **own).headers == (("x-key", "traces"), ("x-team", "tides"))
    assert tracing(tmp_path, **own).ca_file == "/traces.pem"


@pytest.mark.parametrize(("text", "flush_ms"), [("", 5000), ("250", 250), ("0", 5000), ("soon", 5000)])
def test_spans_wait_for_others_as_long_as_the_workers_do(tmp_path: Path, text: str, flush_ms: int) -> None:
    assert tracing(tmp_path, OTEL_BSP_SCHEDULE_DELAY=text).flush_ms == flush_ms


def test_what_is_no_url_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="not a URL"):
        envoy_tracing(load_settings({}, var=tmp_path), {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"})
