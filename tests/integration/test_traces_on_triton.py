"""Triton's own spans of our calls: a real tritonserver in OpenTelemetry mode, and a real OTLP receiver."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import load_settings
from gateway.storage.database import Database
from gateway.tracing.otlp import OtlpTracer, otlp_tracer
from gateway.tracing.spans import working_on
from gateway.triton import TritonClient
from gateway.types import Scope
from tests.fakes.trace_collector import Seen, TraceCollector, collecting
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

CALL = "inference.GRPCInferenceService/ModelInfer"
TRITON = "tidegate-triton"
GATEWAY = "tidegate-gateway"
STOP_S = 6.0


@pytest.fixture(scope="module")
def collector() -> Iterator[TraceCollector]:
    with collecting() as collector:
        yield collector


@pytest.fixture(scope="module")
def triton(
    triton_installed: None,
    models_dir: Path,
    collector: TraceCollector,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("triton")
    (folder / "var").mkdir()
    (folder / "var" / "models").symlink_to(models_dir)
    url = f"sqlite:///{folder / 'tidegate.db'}"
    database = Database(url)
    database.migrate()
    settings = load_settings(
        {}, var=folder / "var", port=free_port(), database_url=url, otlp_endpoint=collector.url
    )
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with running_triton(folder, sorted((MODELS / "retrieval").iterdir()), settings) as process:
            yield process
    database.close()


@pytest.fixture
def tracer(collector: TraceCollector) -> Iterator[OtlpTracer]:
    tracer = otlp_tracer(f"{collector.url}/v1/traces", lambda *_: None, {"OTEL_BSP_SCHEDULE_DELAY": "20"})
    yield tracer
    tracer.close(1.0)


async def test_the_ensembles_models_are_spans_below_our_call(
    client: TritonClient, collector: TraceCollector, tracer: OtlpTracer
) -> None:
    root = tracer.request("question", {}, {})
    assert root is not None
    with working_on(root):
        await TritonRetriever(client).retrieve("What is a tide gate?", Scope(tenant_id="t"), timeout_s=20)
    models = {"retrieve", "embed", "search", "rerank"}

    def is_whole(_: list[Seen]) -> bool:
        return models | {CALL} <= {span.name for span in collector.trace(root.trace_id)}

    await asyncio.to_thread(collector.wait_for, is_whole)
    trace = collector.trace(root.trace_id)
    by_id = {span.span_id: span for span in trace}
    (call,) = [span for span in trace if span.name == CALL]
    assert (call.parent_id, call.kind) == (root.span_id, "client")
    assert call.attributes["tidegate.triton.model"] == "retrieve"
    for model in models:
        (span,) = [each for each in trace if each.name == model]
        assert span.service == TRITON
        ancestors = []
        while span.parent_id:
            span = by_id[span.parent_id]
            ancestors.append(span.span_id)
        assert ancestors[-2:] == [call.span_id, root.span_id], model


async def test_calls_without_a_trace_leave_no_span(
    client: TritonClient, collector: TraceCollector, tracer: OtlpTracer
) -> None:
    embedder = TritonEmbedder(client)
    await embedder.embed(["untraced"], role="query", timeout_s=20)
    root = tracer.request("later", {}, {})
    assert root is not None
    with working_on(root):
        await embedder.embed(["traced"], role="query", timeout_s=20)

    def is_there(_: list[Seen]) -> bool:  # the gateway and Triton send theirs apart, in either order
        return {span.service for span in collector.trace(root.trace_id)} >= {TRITON, GATEWAY}

    await asyncio.to_thread(collector.wait_for, is_there)
    ours = {span.trace_id for span in collector.spans if span.service == GATEWAY}
    assert {span.trace_id for span in collector.spans if span.service == TRITON} <= ours


async def test_a_frozen_collector_holds_up_neither_answers_nor_the_end(
    triton: TritonProcess, client: TritonClient, collector: TraceCollector, tracer: OtlpTracer
) -> None:
    collector.freeze()
    embedder = TritonEmbedder(client)
    root = tracer.request("frozen", {}, {})
    assert root is not None
    with working_on(root):
        for _ in range(30):
            began = time.monotonic()
            await embedder.embed(["text"], role="query", timeout_s=20)
            assert time.monotonic() - began < 2.0
    began = time.monotonic()
    triton.process.terminate()
    assert await asyncio.to_thread(triton.process.wait, 60) == 0
    took = time.monotonic() - began
    print(f"the end took {took:.1f} s")
    assert took < STOP_S
