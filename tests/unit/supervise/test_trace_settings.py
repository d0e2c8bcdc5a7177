"""Traces in what is started: Triton's flags, the collector's key, and what `doctor` says of a bad address."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise.preflight import check_traces
from gateway.supervise.render import COLLECTOR_HEADERS, child_environment, render_supervisor
from gateway.supervise.triton_server import trace_config


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, var=tmp_path, redis_server="/bin/true", envoy_bin="/bin/true")


def test_triton_traces_what_comes_with_a_trace_and_nothing_by_itself() -> None:
    assert trace_config("") == []
    flags = trace_config("http://a:4318/v1/traces")
    assert {"mode=opentelemetry", "rate=0", "opentelemetry,url=http://a:4318/v1/traces"} <= set(flags)


def test_opentelemetrys_variables_reach_the_parts(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    assert child_environment(settings)["OTEL_TRACES_SAMPLER"] == "always_off"


def test_the_collectors_key_is_for_those_alone_who_send(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COLLECTOR_HEADERS[0], "key=secret")
    monkeypatch.delenv(COLLECTOR_HEADERS[1], raising=False)
    text = render_supervisor(settings, "password")
    assert "secret" not in text
    found = configparser.RawConfigParser()
    found.read_string(text)
    blanked = {
        section.partition(":")[2]
        for section in found.sections()
        if section.startswith("program:")
        and f'{COLLECTOR_HEADERS[0]}=""' in found[section].get("environment", "")
    }
    assert {"redis", "envoy", "ingest"} <= blanked
    assert not {name for name in blanked if name.startswith(("gateway", "triton"))}


@pytest.mark.parametrize(
    ("url", "is_ok"), [("http://127.0.0.1:4318", True), ("127.0.0.1:4318", False)], ids=["url", "none"]
)
def test_doctor_judges_the_address_and_does_not_ask_it(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, is_ok: bool
) -> None:
    monkeypatch.delenv("OTEL_SDK_DISABLED", raising=False)
    (check,) = check_traces(load_settings({}, var=tmp_path, otlp_endpoint=url))
    assert check.ok is is_ok
    assert "TIDEGATE_OTLP_ENDPOINT" in check.detail or is_ok


def test_doctor_has_nothing_to_say_while_traces_are_off(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert check_traces(settings) == []
