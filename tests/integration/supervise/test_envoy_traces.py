"""Spans of a real Envoy, at a real OTLP receiver: between client and worker, and between worker and Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fakes.certificates import Pair, make_pair
from tests.fakes.trace_collector import Seen, TraceCollector, collecting
from tests.integration.supervise.test_balancer import METHOD, running
from tests.integration.supervise.test_edge import Edge, running_edge

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
WANTED, UNWANTED = f"00-{TRACE}-{CLIENT}-01", f"00-{TRACE}-{CLIENT}-00"
EDGE, BALANCER = "tidegate-edge", "tidegate-balancer"
PATH = "/v1/models?what=a-secret-question"
SAMPLER = "OTEL_TRACES_SAMPLER"


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(autouse=True)
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (SAMPLER, f"{SAMPLER}_ARG", "OTEL_EXPORTER_OTLP_HEADERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    return monkeypatch


async def handed_on(edge: Edge, path: str = PATH, parent: str = "") -> str:
    """The `traceparent` that a worker gets with such a request; "" = none."""
    async with httpx.AsyncClient(base_url=edge.base_url, timeout=10) as client:
        answer = await client.get(path, headers={"traceparent": parent} if parent else {})
    assert answer.status_code == 200
    (head,) = [each for worker in edge.workers for each in worker.requests]
    for worker in edge.workers:
        worker.requests.clear()
    return head.get("traceparent", "")


async def span_of(collector: TraceCollector, trace_id: str) -> Seen:
    await asyncio.to_thread(collector.wait_for, lambda _: bool(collector.trace(trace_id)))
    (span,) = collector.trace(trace_id)
    return span


async def test_the_edge_stands_between_the_client_and_the_worker(
    tmp_path: Path, collector: TraceCollector
) -> None:
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        version, trace_id, span_id, flags = (await handed_on(edge, parent=WANTED)).split("-")
        span = await span_of(collector, TRACE)
    assert (version, trace_id, flags) == ("00", TRACE, "01")
    assert (span.service, span.name, span.kind) == (EDGE, EDGE, "server")
    assert (span.span_id, span.parent_id) == (span_id, CLIENT)
    assert span.attributes["http.status_code"] == "200"
    assert "a-secret-question" not in str(span)


async def test_a_request_without_a_trace_begins_one(tmp_path: Path, collector: TraceCollector) -> None:
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        _, trace_id, span_id, flags = (await handed_on(edge)).split("-")
        span = await span_of(collector, trace_id)
    assert (span.span_id, span.parent_id, flags) == (span_id, "", "01")


@pytest.mark.parametrize(
    ("sampler", "parent", "flags"),
    [
        ("", UNWANTED, "00"),  # a client's wish counts
        ("no such sampler", UNWANTED, "00"),
        ("parentbased_always_off", "", "00"),
        ("parentbased_always_off", WANTED, "01"),
        ("parentbased_traceidratio", "", "00"),  # a share of 0
        ("always_on", UNWANTED, "01"),
    ],
)
async def test_the_edge_decides_as_a_worker_would_and_the_worker_can_follow(
    tmp_path: Path,
    collector: TraceCollector,
    environ: pytest.MonkeyPatch,
    sampler: str,
    parent: str,
    flags: str,
) -> None:
    environ.setenv(SAMPLER, sampler)
    environ.setenv(f"{SAMPLER}_ARG", "0")
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        handed = await handed_on(edge, parent=parent)
        marker = await handed_on(edge, parent=WANTED.replace(TRACE, TRACE[::-1]))
        await span_of(collector, marker.split("-")[1])  # by now the first would be there too
    assert handed.rpartition("-")[2] == flags
    assert len(collector.trace(handed.split("-")[1])) == (flags == "01")


@pytest.mark.parametrize("parent", ["", WANTED, UNWANTED])
async def test_where_the_worker_decides_by_the_traces_number_the_edge_adds_nothing(
    tmp_path: Path, collector: TraceCollector, environ: pytest.MonkeyPatch, parent: str
) -> None:
    environ.setenv(SAMPLER, "traceidratio")
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        assert await handed_on(edge, parent=parent) == parent


async def test_what_watches_the_service_is_in_no_trace(tmp_path: Path, collector: TraceCollector) -> None:
    async with running_edge(tmp_path, otlp_endpoint=collector.url, edge_requests_per_s=0) as edge:
        assert (await handed_on(edge, "/health/live")).endswith("-00")
        marker = await handed_on(edge)
        await span_of(collector, marker.split("-")[1])
    assert len(collector.spans) == 1


async def test_the_collector_gets_its_key_and_the_admin_port_does_not_show_it(
    tmp_path: Path, collector: TraceCollector, environ: pytest.MonkeyPatch
) -> None:
    environ.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=a%20very%20secret%20key,x-team=tides")
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        marker = await handed_on(edge)
        await span_of(collector, marker.split("-")[1])
        async with httpx.AsyncClient() as client:
            dump = await client.get(f"http://127.0.0.1:{edge.settings.envoy_admin_port}/config_dump")
    assert "x-collector-key" in dump.text
    assert "very secret" not in dump.text
    (headers,) = collector.headers
    assert (headers["x-collector-key"], headers["x-team"]) == ("a very secret key", "tides")


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path, "DNS:localhost", "IP:127.0.0.1")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_collector_behind_tls_is_believed_by_the_operators_certificate(
    tmp_path: Path, environ: pytest.MonkeyPatch, pair: Pair, host: str
) -> None:
    environ.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(pair.certificate))
    with collecting(pair.for_server()) as collector:
        url = collector.url.replace("127.0.0.1", host)
        async with running_edge(tmp_path / "edge", otlp_endpoint=url) as edge:
            marker = await handed_on(edge)
            assert (await span_of(collector, marker.split("-")[1])).service == EDGE


async def test_a_collector_whose_certificate_nobody_vouches_for_gets_nothing(
    tmp_path: Path, pair: Pair
) -> None:
    with collecting(pair.for_server()) as collector:
        async with running_edge(tmp_path / "edge", otlp_endpoint=collector.url) as edge:
            await handed_on(edge)
            url = (
                f"http://127.0.0.1:{edge.settings.envoy_admin_port}/stats?filter=^cluster.collector.ssl.fail"
            )
            deadline = time.monotonic() + 10
            async with httpx.AsyncClient() as client:
                while "fail_verify_error: 0" in (told := (await client.get(url)).text):
                    assert time.monotonic() < deadline, told
                    await asyncio.sleep(0.05)
        assert collector.spans == []


async def test_a_collector_that_hangs_or_is_gone_holds_up_no_request(
    tmp_path: Path, collector: TraceCollector
) -> None:
    async with running_edge(tmp_path, otlp_endpoint=collector.url) as edge:
        collector.freeze()
        for number in range(20):
            if number == 10:
                collector.stop()
            began = time.monotonic()
            await handed_on(edge)
            assert time.monotonic() - began < 2.0


async def test_the_balancer_stands_between_the_worker_and_triton(
    tmp_path: Path, collector: TraceCollector
) -> None:
    async with running(tmp_path, otlp_endpoint=collector.url) as balancer:
        metadata = (("traceparent", WANTED), ("x-request-id", "chatcmpl-1"))
        await balancer.channel.unary_stream(METHOD)(b"question", timeout=5, metadata=metadata).read()
        span = await span_of(collector, TRACE)
        (head,) = [each for replica in balancer.replicas for each in replica.heads]
    assert (span.service, span.parent_id) == (BALANCER, CLIENT)
    assert head["traceparent"] == f"00-{TRACE}-{span.span_id}-01"
    assert head["x-request-id"] == "chatcmpl-1"


@pytest.mark.parametrize("parent", ["", UNWANTED])
async def test_a_call_in_no_trace_reaches_triton_without_one(
    tmp_path: Path, collector: TraceCollector, parent: str
) -> None:
    """Triton would trace it, whatever the flag says."""
    async with running(tmp_path, otlp_endpoint=collector.url) as balancer:
        for metadata in ((("traceparent", parent),) if parent else (), (("traceparent", WANTED),)):
            await balancer.channel.unary_stream(METHOD)(b"question", timeout=5, metadata=metadata).read()
        await span_of(collector, TRACE)
        heads = [each for replica in balancer.replicas for each in replica.heads]
    assert sorted("traceparent" in each for each in heads) == [False, True]
    assert len(collector.spans) == 1
