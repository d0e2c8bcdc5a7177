"""What a worker tells of its requests to a collector of traces: both doors, real sockets, a real OTLP receiver."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from collections.abc import Callable, Iterator

import grpc
import httpx
import pytest

from gateway.errors import UpstreamUnavailable
from gateway.logs import JsonFormatter
from gateway.proto import chat_pb2, chat_pb2_grpc
from gateway.tracing.otlp import OtlpTracer, otlp_tracer
from gateway.types import DEFAULT_EMBEDDER
from tests.fakes.trace_collector import Seen, TraceCollector, collecting
from tests.integration.api.conftest import Gateway

SOON = {"OTEL_BSP_SCHEDULE_DELAY": "20"}
CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{CLIENT[0]}-{CLIENT[1]}-01"
QUESTION = "What holds back the surge?"
MODEL = DEFAULT_EMBEDDER


@pytest.fixture
def collector() -> Iterator[TraceCollector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def counts() -> dict[str, int]:
    """What became of spans, as the metric has it."""
    return {}


@pytest.fixture
def make_tracer(counts: dict[str, int]) -> Iterator[Callable[..., OtlpTracer]]:
    made: list[OtlpTracer] = []

    def count(result: str, number: int) -> None:
        counts[result] = counts.get(result, 0) + number

    def make(url: str, **environ: str) -> OtlpTracer:
        made.append(otlp_tracer(f"{url}/v1/traces", count, SOON | environ))
        return made[-1]

    yield make
    for tracer in made:
        tracer.close(0.2)


@pytest.fixture
def tracer(collector: TraceCollector, make_tracer: Callable[..., OtlpTracer]) -> OtlpTracer:
    return make_tracer(collector.url, OTEL_BSP_MAX_QUEUE_SIZE="64")


def has(name: str) -> Callable[[list[Seen]], bool]:
    return lambda spans: any(span.name == name for span in spans)


CHAT, RPC = "POST /v1/chat/completions", "tidegate.v1.ChatService/Chat"


async def whole_trace(collector: TraceCollector, root: str = CHAT) -> dict[str, Seen]:
    """Spans by name; the root ends last, so all are there with it."""
    spans = await asyncio.to_thread(collector.wait_for, has(root))
    return {span.name: span for span in spans}


async def ask(gateway: Gateway, *, stream: bool = False, **headers: str) -> httpx.Response:
    body = {"model": "fast", "messages": [{"role": "user", "content": QUESTION}], "stream": stream}
    return await gateway.client.post("/v1/chat/completions", json=body, headers=gateway.auth() | headers)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_a_question_is_one_tree_of_spans(
    gateway: Gateway, collector: TraceCollector, stream: bool
) -> None:
    assert (await ask(gateway, stream=stream)).status_code == 200
    spans = await whole_trace(collector)
    root = spans[CHAT]
    assert set(spans) == {CHAT, "admission", "retrieval", "chat fast"}
    assert {span.trace_id for span in spans.values()} == {root.trace_id}
    assert root.parent_id == ""
    assert {spans[name].parent_id for name in ("admission", "retrieval", "chat fast")} == {root.span_id}
    assert (root.kind, root.service) == ("server", "tidegate-gateway")
    for inner in spans.values():
        assert root.start_ns <= inner.start_ns <= inner.end_ns <= root.end_ns
    assert not any(span.is_error for span in spans.values())


async def test_spans_speak_of_the_request_in_the_conventions_words(
    gateway: Gateway, collector: TraceCollector
) -> None:
    receipt = (await ask(gateway)).json()["tidegate"]["receipt"]
    spans = await whole_trace(collector)
    root, written, found = spans[CHAT].attributes, spans["chat fast"], spans["retrieval"].attributes
    assert root["http.route"] == "/v1/chat/completions"
    assert root["http.response.status_code"] == 200
    assert root["tidegate.request_id"] == receipt["id"]
    assert (root["tidegate.outcome"], root["tidegate.tier"]) == ("completed", "fast")
    assert written.kind == "client"
    assert written.attributes["gen_ai.operation.name"] == "chat"
    assert written.attributes["gen_ai.provider.name"] == "tidegate"
    assert written.attributes["gen_ai.request.model"] == written.attributes["gen_ai.response.model"] == "fast"
    assert written.attributes["gen_ai.response.id"] == receipt["id"]
    assert written.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert written.attributes["gen_ai.usage.output_tokens"] == receipt["usage"]["completion_tokens"] > 0
    first = written.events["first text"]["gen_ai.server.time_to_first_token"]
    assert first == pytest.approx(receipt["ttft_ms"] / 1000)
    assert found["gen_ai.operation.name"] == "retrieval"
    assert found["gen_ai.retrieval.top_k"] >= 1
    assert found["tidegate.passages"] == len(receipt["passages"]) > 0
    assert spans["admission"].attributes["tidegate.tier"] == "fast"


async def test_no_span_holds_what_was_asked_or_answered_or_the_key(
    gateway: Gateway, collector: TraceCollector
) -> None:
    answer = (await ask(gateway)).json()["choices"][0]["message"]["content"]
    spans = repr(await whole_trace(collector))
    assert answer
    for secret in (QUESTION, "surge", "tide gate", gateway.keys["acme"]):
        assert secret not in spans


async def test_a_clients_trace_goes_on_here(gateway: Gateway, collector: TraceCollector) -> None:
    receipt = (await ask(gateway, traceparent=TRACEPARENT)).json()["tidegate"]["receipt"]
    root = (await whole_trace(collector))[CHAT]
    assert (root.trace_id, root.parent_id) == CLIENT
    assert receipt["trace_id"] == CLIENT[0]


BAD = {
    "empty": "",
    "no_trace": "hello",
    "short": f"00-{CLIENT[0][:-1]}-{CLIENT[1]}-01",
    "zero_trace": f"00-{'0' * 32}-{CLIENT[1]}-01",
    "zero_span": f"00-{CLIENT[0]}-{'0' * 16}-01",
    "not_hex": f"00-{'z' * 32}-{CLIENT[1]}-01",
    "version_ff": f"ff-{CLIENT[0]}-{CLIENT[1]}-01",
    "very_long": f"00-{CLIENT[0]}-{CLIENT[1]}-01" + "-x" * 4000,
}


@pytest.mark.parametrize("traceparent", BAD.values(), ids=BAD)
async def test_a_bad_traceparent_begins_a_trace_of_its_own(
    gateway: Gateway, collector: TraceCollector, traceparent: str
) -> None:
    assert (await ask(gateway, traceparent=traceparent)).status_code == 200
    root = (await whole_trace(collector))[CHAT]
    assert root.parent_id == ""
    assert root.trace_id != CLIENT[0]


async def test_of_two_traceparents_none_counts(gateway: Gateway, collector: TraceCollector) -> None:
    body = {"model": "fast", "messages": [{"role": "user", "content": QUESTION}]}
    twice = [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT.replace("4b", "5b", 1))]
    headers = [*gateway.auth().items(), *twice]
    assert (await gateway.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    assert (await whole_trace(collector))[CHAT].parent_id == ""


async def test_a_request_that_its_client_does_not_sample_leaves_no_trace(
    gateway: Gateway, collector: TraceCollector
) -> None:
    unsampled = await ask(gateway, traceparent=TRACEPARENT.removesuffix("01") + "00")
    assert unsampled.json()["tidegate"]["receipt"]["trace_id"] == ""
    assert (await ask(gateway)).status_code == 200
    spans = await whole_trace(collector)
    assert CLIENT[0] not in {span.trace_id for span in spans.values()}
    assert len(collector.spans) == 4  # of the other one


async def test_a_calls_trace_goes_on_over_grpc(gateway: Gateway, collector: TraceCollector) -> None:
    request = chat_pb2.ChatRequest(
        model="fast", messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=QUESTION)]
    )
    metadata = (*gateway.auth().items(), ("traceparent", TRACEPARENT))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        events = [
            event async for event in chat_pb2_grpc.ChatServiceStub(channel).Chat(request, metadata=metadata)
        ]
    spans = await whole_trace(collector, RPC)
    assert (spans[RPC].trace_id, spans[RPC].parent_id) == CLIENT
    assert spans["chat fast"].parent_id == spans[RPC].span_id
    assert spans[RPC].attributes["rpc.response.status_code"] == "OK"
    assert events[-1].done.receipt.trace_id == CLIENT[0]


async def test_a_refused_call_tells_its_status(gateway: Gateway, collector: TraceCollector) -> None:
    request = chat_pb2.ChatRequest(
        model="none", messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=QUESTION)]
    )
    async with grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}") as channel:
        call = chat_pb2_grpc.ChatServiceStub(channel).Chat(request, metadata=(*gateway.auth().items(),))
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()
    root = (await whole_trace(collector, RPC))[RPC]
    assert root.attributes["rpc.response.status_code"] == "NOT_FOUND"
    assert not root.is_error  # the caller's own


async def test_what_fails_says_where(gateway: Gateway, collector: TraceCollector) -> None:
    gateway.retriever.fail_with = UpstreamUnavailable("The model server is away.")
    assert (await ask(gateway)).status_code == 503
    spans = await whole_trace(collector)
    assert spans["retrieval"].is_error
    assert spans["retrieval"].attributes["error.type"] == "upstream_unavailable"
    root = spans[CHAT]
    assert root.is_error
    assert root.attributes["error.type"] == "upstream_unavailable"
    assert root.attributes["http.response.status_code"] == 503


async def test_an_answer_that_breaks_off_is_an_error_of_its_request(
    gateway: Gateway, collector: TraceCollector
) -> None:
    gateway.fast.fail_with, gateway.fast.fail_at = UpstreamUnavailable("It is away."), 1
    assert "error" in (await ask(gateway, stream=True)).text
    spans = await whole_trace(collector)
    assert spans[CHAT].attributes["http.response.status_code"] == 200  # it had been sent by then
    assert spans[CHAT].is_error
    assert spans["chat fast"].is_error
    assert "first text" in spans["chat fast"].events


async def test_a_callers_mistake_is_no_error_of_ours(gateway: Gateway, collector: TraceCollector) -> None:
    answer = await gateway.client.post("/v1/chat/completions", json={"model": "fast"}, headers=gateway.auth())
    assert answer.status_code == 400
    root = (await whole_trace(collector))[CHAT]
    assert root.attributes["http.response.status_code"] == 400
    assert root.attributes["tidegate.outcome"] == "rejected"
    assert not root.is_error


async def test_a_client_that_leaves_ends_the_spans(gateway: Gateway, collector: TraceCollector) -> None:
    gateway.fast.delay_s = 30.0
    body = {"model": "fast", "messages": [{"role": "user", "content": QUESTION}]}
    with pytest.raises(httpx.ReadTimeout):
        await gateway.client.post("/v1/chat/completions", json=body, headers=gateway.auth(), timeout=0.3)
    spans = await whole_trace(collector)
    assert spans[CHAT].attributes["error.type"] == "client_gone"
    assert "cancelled" in spans["chat fast"].events
    assert not spans[CHAT].is_error


async def test_a_search_and_an_embedding_are_steps_of_their_requests(
    gateway: Gateway, collector: TraceCollector
) -> None:
    made = await gateway.client.post("/v1/vector_stores", json={"name": "s"}, headers=gateway.auth())
    store = made.json()["id"]
    for path, body, name, operation in (
        (f"/v1/vector_stores/{store}/search", {"query": QUESTION}, "retrieval", "retrieval"),
        ("/v1/embeddings", {"model": MODEL, "input": QUESTION}, f"embeddings {MODEL}", "embeddings"),
    ):
        gateway.retriever.passages = []
        reply = await gateway.client.post(path, json=body, headers=gateway.auth())
        assert reply.status_code == 200, reply.text
        root = "POST " + path.replace(store, "{store_id}")
        spans = await whole_trace(collector, root)
        assert spans[name].parent_id == spans[root].span_id
        assert spans[name].attributes["gen_ai.operation.name"] == operation


async def test_a_span_is_named_by_its_route_and_holds_the_path(
    gateway: Gateway, collector: TraceCollector
) -> None:
    assert (await gateway.client.get("/v1/receipts/none", headers=gateway.auth())).status_code == 404
    root = (await whole_trace(collector, "GET /v1/receipts/{receipt_id}"))["GET /v1/receipts/{receipt_id}"]
    assert root.attributes["http.route"] == "/v1/receipts/{receipt_id}"
    assert root.attributes["url.path"] == "/v1/receipts/none"
    assert root.attributes["error.type"] == "receipt_not_found"
    assert not root.is_error


async def test_health_checks_and_scrapes_leave_no_trace(gateway: Gateway, collector: TraceCollector) -> None:
    for path in ("/health/live", "/health/ready", "/metrics"):
        await gateway.client.get(path)
    await gateway.client.get("/v1/models", headers=gateway.auth())
    await whole_trace(collector, "GET /v1/models")
    assert len(collector.spans) == 1


async def test_log_lines_name_the_trace(gateway: Gateway, collector: TraceCollector) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("gateway-0"))
    log = logging.getLogger("tidegate.chat")
    before, log.level = log.level, logging.INFO
    log.addHandler(handler)
    try:
        receipt = (await ask(gateway)).json()["tidegate"]["receipt"]
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    root = (await whole_trace(collector))[CHAT]
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    ours = [line for line in lines if line.get("request_id") == receipt["id"]]
    assert ours
    assert {(line["trace_id"], line["span_id"]) for line in ours} == {(root.trace_id, root.span_id)}


async def test_two_requests_at_once_keep_their_own_spans(gateway: Gateway, collector: TraceCollector) -> None:
    gateway.fast.gap_s = 0.02
    receipts = [
        answer.json()["tidegate"]["receipt"] for answer in await asyncio.gather(ask(gateway), ask(gateway))
    ]
    await asyncio.to_thread(collector.wait_for, lambda spans: len(spans) >= 8)
    for receipt in receipts:
        trace = {span.name: span for span in collector.trace(receipt["trace_id"])}
        assert set(trace) == {CHAT, "admission", "retrieval", "chat fast"}
        assert trace[CHAT].attributes["tidegate.request_id"] == receipt["id"]
        assert {span.parent_id for span in trace.values()} == {"", trace[CHAT].span_id}


class TestWithoutACollector:
    """Whatever it does, answers go on, memory is bounded, and what is lost is counted."""

    NUM = 40  # requests of 4 spans, for a queue of 64

    async def answered(self, gateway: Gateway) -> float:
        """Seconds that the slowest answer took."""
        slowest = 0.0
        for _ in range(self.NUM):
            began = time.monotonic()
            assert (await ask(gateway)).status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        return slowest

    async def test_frozen(self, gateway: Gateway, collector: TraceCollector, counts: dict[str, int]) -> None:
        collector.freeze()
        assert await self.answered(gateway) < 2.0
        assert collector.num_frozen == 1  # one message at a time
        tracer = gateway.services.tracer
        assert isinstance(tracer, OtlpTracer)
        assert tracer.num_waiting <= 64
        assert counts["queue_full"] >= self.NUM * 4 - 64 - 64  # in the queue, and in the message under way
        began = time.monotonic()
        await asyncio.to_thread(tracer.close, 0.5)
        assert time.monotonic() - began < 2.0
        assert tracer.num_waiting == 0

    async def test_refusing(
        self, gateway: Gateway, collector: TraceCollector, counts: dict[str, int]
    ) -> None:
        collector.status = 400
        assert await self.answered(gateway) < 2.0
        await asyncio.to_thread(_until, lambda: counts.get("refused", 0) > 0)
        collector.status = 200
        receipt = (await ask(gateway)).json()["tidegate"]["receipt"]
        enough = lambda _: len(collector.trace(receipt["trace_id"])) == 4  # noqa: E731
        await asyncio.to_thread(collector.wait_for, enough)
        assert counts["sent"] >= 4

    async def test_gone(self, gateway: Gateway, collector: TraceCollector, counts: dict[str, int]) -> None:
        collector.stop()
        assert await self.answered(gateway) < 2.0
        tracer = gateway.services.tracer
        assert isinstance(tracer, OtlpTracer)
        assert tracer.num_waiting <= 64
        assert counts["queue_full"] > 0


def _until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
