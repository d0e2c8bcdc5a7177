"""A question's trace through the service, from its client over Envoy and a worker into Triton; a frozen collector."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.e2e.conftest import Launch, Service
from tests.fakes.trace_collector import Seen, TraceCollector, collecting

QUESTION = "What is a tide gate?"
CHAT = "POST /v1/chat/completions"
GATEWAY, TRITON = "tidegate-gateway", "tidegate-triton"
EDGE, BALANCER = "tidegate-edge", "tidegate-balancer"


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def traced(launch: Launch, collector: TraceCollector) -> Service:
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-collector-key=e2e-secret",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_BSP_MAX_QUEUE_SIZE": "64",
    }
    return launch(environ=environ)


def ask(service: Service, trace_id: str, question: str = QUESTION, **ours: object) -> httpx.Response:
    body = {"model": "fast", "messages": [{"role": "user", "content": question}], "tidegate": ours}
    headers = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    with service.client() as client:
        reply = client.post("/v1/chat/completions", json=body, headers=headers)
    assert reply.status_code == 200, reply.text
    return reply


def whole(collector: TraceCollector, trace_id: str, *names: str) -> list[Seen]:
    """The trace, once it has these spans and no gap: of all parents only the client's own is not in it."""

    def is_there(_: list[Seen]) -> bool:
        trace = collector.trace(trace_id)
        lacking = {span.parent_id for span in trace} - {span.span_id for span in trace}
        return {EDGE, CHAT, *names} <= {span.name for span in trace} and len(lacking) == 1

    collector.wait_for(is_there, 20)
    return collector.trace(trace_id)


def test_one_trace_leads_from_the_client_into_tritons_models(
    traced: Service, collector: TraceCollector
) -> None:
    trace_id = secrets.token_hex(16)
    receipt = ask(traced, trace_id).json()["tidegate"]["receipt"]
    assert receipt["trace_id"] == trace_id
    trace = whole(collector, trace_id, "retrieve", "embed", "search", "rerank", "reader", "chat fast")
    by_id = {span.span_id: span for span in trace}

    def path(name: str, service: str = TRITON) -> list[str]:
        (span,) = [span for span in trace if (span.name, span.service) == (name, service)]
        names = [span.name]
        while span.parent_id in by_id:
            span = by_id[span.parent_id]
            names.append(span.name)
        assert span.parent_id, "its client's span comes before it"
        return names

    for model in ("embed", "search", "rerank"):
        way = [BALANCER, "inference.GRPCInferenceService/ModelInfer", "retrieval", CHAT, EDGE]
        assert path(model)[-5:] == way
    way = [BALANCER, "inference.GRPCInferenceService/ModelStreamInfer", "chat fast", CHAT, EDGE]
    assert path("reader")[-5:] == way
    assert path("cache lookup", GATEWAY) == ["cache lookup", CHAT, EDGE]
    assert {span.name for span in trace if span.service == GATEWAY} >= {"admission"}


def test_a_remembered_answer_has_no_retrieval_and_says_why(
    traced: Service, collector: TraceCollector
) -> None:
    question = "Which part balances calls over the replicas of Triton?"
    first, second = secrets.token_hex(16), secrets.token_hex(16)
    ask(traced, first, question)
    assert ask(traced, second, question).json()["tidegate"]["receipt"]["cache"] == "exact"

    def verdicts(trace_id: str) -> tuple[object, object]:
        trace = {span.name: span for span in whole(collector, trace_id) if span.service == GATEWAY}
        return trace["cache lookup"].attributes["tidegate.cache.lookup"], trace[CHAT].attributes[
            "tidegate.cache"
        ]

    assert verdicts(first) == ("miss", "miss")
    assert verdicts(second) == ("hit", "exact")
    assert "retrieval" not in {span.name for span in collector.trace(second)}


def test_log_lines_of_the_worker_name_the_trace(traced: Service, collector: TraceCollector) -> None:
    trace_id = secrets.token_hex(16)
    receipt = ask(traced, trace_id, cache="off").json()["tidegate"]["receipt"]
    deadline = time.monotonic() + 10
    lines: list[dict[str, str]] = []
    while not lines and time.monotonic() < deadline:
        log = (traced.settings.log_dir / "gateway-0.log").read_text().splitlines()
        lines = [json.loads(line) for line in log if trace_id in line]
    assert {line["request_id"] for line in lines} == {receipt["id"]}


def test_the_collectors_key_comes_along_and_reaches_nobody_else(
    traced: Service, collector: TraceCollector
) -> None:
    ask(traced, secrets.token_hex(16), cache="off")
    assert {headers.get("x-collector-key") for headers in collector.headers} == {"e2e-secret"}
    traced.remember()
    holders = set()
    for process in traced.seen:
        if process.is_running() and "e2e-secret" in process.environ().get("OTEL_EXPORTER_OTLP_HEADERS", ""):
            holders.add(" ".join(process.cmdline()))
    assert holders
    assert not [line for line in holders if "redis" in line or "ingest" in line or "envoy" in line]


def test_a_frozen_collector_changes_no_answer_and_its_loss_is_counted(
    traced: Service, collector: TraceCollector
) -> None:
    collector.freeze()
    for number in range(30):
        began = time.monotonic()
        ask(traced, secrets.token_hex(16), f"What is tide gate number {number}?", cache="off")
        assert time.monotonic() - began < 3.0
    metrics = httpx.get(f"http://127.0.0.1:{traced.settings.worker_port(0)}/metrics", timeout=5).text
    rows = dict(
        line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("tidegate_trace_spans")
    )
    assert float(rows['tidegate_trace_spans_total{result="queue_full"}']) > 0
    began = time.monotonic()
    assert traced.stop() == 0
    assert time.monotonic() - began < 20.0
