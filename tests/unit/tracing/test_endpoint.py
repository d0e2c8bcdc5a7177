"""Where traces go: our setting, OpenTelemetry's variables, and what is refused."""

from __future__ import annotations

import pytest

from gateway.settings import SettingsError, load_settings
from gateway.tracing.endpoint import make_tracer, traces_url

GENERAL, TRACES = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"


def url_of(ours: str = "", **environ: str) -> str:
    return traces_url(load_settings({}, otlp_endpoint=ours), environ)


def test_without_an_endpoint_traces_are_off() -> None:
    assert url_of() == ""
    assert url_of(**{GENERAL: " ", TRACES: ""}) == ""


@pytest.mark.parametrize(
    ("ours", "environ", "url"),
    [
        pytest.param("http://a:4318", {}, "http://a:4318/v1/traces", id="ours"),
        pytest.param("http://a:4318/", {}, "http://a:4318/v1/traces", id="ours_with_a_slash"),
        pytest.param("", {GENERAL: "https://b/otlp"}, "https://b/otlp/v1/traces", id="for_all_signals"),
        pytest.param("", {TRACES: "http://c/x", GENERAL: "http://b"}, "http://c/x", id="for_traces_as_it_is"),
        pytest.param("http://a", {TRACES: "http://c/x"}, "http://a/v1/traces", id="ours_comes_first"),
    ],
)
def test_the_url(ours: str, environ: dict[str, str], url: str) -> None:
    assert url_of(ours, **environ) == url


@pytest.mark.parametrize(
    "environ", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}], ids=["sdk", "exporter"]
)
def test_opentelemetrys_switches_turn_them_off(environ: dict[str, str]) -> None:
    assert url_of("http://a:4318", **environ) == ""


@pytest.mark.parametrize("url", ["collector:4318", "http://", "http://a:b", "ftp://a", "http://u:secret@a"])
def test_what_is_no_url_stops_the_start_and_is_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_OTLP_ENDPOINT is not a URL") as raised:
        url_of(url)
    assert "secret" not in str(raised.value)


def test_another_protocol_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="http/protobuf alone"):
        url_of("http://a:4317", OTEL_EXPORTER_OTLP_PROTOCOL="grpc")


def test_another_protocol_is_nobodys_business_while_traces_are_off() -> None:
    assert url_of(OTEL_EXPORTER_OTLP_PROTOCOL="grpc") == ""


def test_off_means_that_there_is_no_tracer(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (GENERAL, TRACES):
        monkeypatch.delenv(name, raising=False)
    assert make_tracer(load_settings({}), lambda *_: None) is None
