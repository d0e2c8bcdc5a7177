"""The queue of ended spans: its bound, its count, its end. The exporters here are the SDK's, or ones that misbehave."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.tracing.export import BoundedExport, bounded_export

LIMIT_S = 5.0


class Stuck(SpanExporter):
    """Takes a message and does not come back with it until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.entered.set()
        self.let_go.wait()
        return SpanExportResult.SUCCESS


class Broken(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise RuntimeError("no")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def counts() -> Counter[str]:
    return Counter()


@pytest.fixture
def make(counts: Counter[str]) -> Iterator[Callable[..., BoundedExport]]:
    made: list[BoundedExport] = []

    def count(result: str, number: int) -> None:
        counts[result] += number

    def make(exporter: SpanExporter, **environ: str) -> BoundedExport:
        made.append(bounded_export(exporter, count, environ))
        return made[-1]

    yield make
    for each in made:
        each.close(0.0)


def put(export: BoundedExport, number: int) -> None:
    for index in range(number):
        export.on_end(ReadableSpan(str(index)))


def test_all_are_sent_in_order(make: Callable[..., BoundedExport], counts: Counter[str]) -> None:
    exporter = InMemorySpanExporter()
    export = make(exporter, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="3", OTEL_BSP_SCHEDULE_DELAY="60000")
    put(export, 10)
    export.close(LIMIT_S)
    assert [span.name for span in exporter.get_finished_spans()] == [str(index) for index in range(10)]
    assert counts == {"sent": 10}


def test_a_full_batch_does_not_wait(make: Callable[..., BoundedExport], counts: Counter[str]) -> None:
    export = make(InMemorySpanExporter(), OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4", OTEL_BSP_SCHEDULE_DELAY="60000")
    put(export, 4)
    until(lambda: counts["sent"] == 4)


def test_what_does_not_fit_is_counted_and_nobody_waits(
    make: Callable[..., BoundedExport], counts: Counter[str]
) -> None:
    stuck = Stuck()
    export = make(stuck, OTEL_BSP_MAX_QUEUE_SIZE="8", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")
    put(export, 2)
    assert stuck.entered.wait(LIMIT_S)
    put(export, 1000)  # whoever waited would wait for ever: nothing lets the exporter go
    assert export.num_waiting == 8
    assert counts == {"queue_full": 992}
    stuck.let_go.set()
    export.close(LIMIT_S)
    assert counts == {"queue_full": 992, "sent": 10}


def test_the_end_does_not_wait_for_a_collector_that_does_not_answer(
    make: Callable[..., BoundedExport], counts: Counter[str]
) -> None:
    stuck = Stuck()
    export = make(stuck, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2")
    put(export, 5)
    assert stuck.entered.wait(LIMIT_S)
    began = time.monotonic()
    export.close(0.1)
    assert time.monotonic() - began < 1.0
    assert counts["shutdown"] == 3  # two are under way
    put(export, 1)
    assert counts["shutdown"] == 4
    assert export.num_waiting == 0
    stuck.let_go.set()


def test_an_exporter_that_raises_costs_its_message_and_no_more(
    make: Callable[..., BoundedExport], counts: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    export = make(Broken(), OTEL_BSP_SCHEDULE_DELAY="5")
    put(export, 1)
    until(lambda: counts["refused"] == 1)
    put(export, 1)
    until(lambda: counts["refused"] == 2)
    told = [record.message for record in caplog.records if record.message.startswith("traces are not taken")]
    assert len(told) == 1


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5", "٣"])
def test_a_bound_that_is_no_number_stops_the_start(make: Callable[..., BoundedExport], number: str) -> None:
    with pytest.raises(ValueError, match="OTEL_BSP_MAX_QUEUE_SIZE"):
        make(InMemorySpanExporter(), OTEL_BSP_MAX_QUEUE_SIZE=number)
