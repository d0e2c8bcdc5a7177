"""Steps where traces are off, and what an error leaves in a span."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from gateway.errors import InvalidRequest, TidegateError, UpstreamTimeout
from gateway.tracing import spans
from gateway.tracing.spans import Attributes, Headers, Span


class Noted:
    """A span that writes down what it is told."""

    trace_id, span_id = "t" * 32, "s" * 16

    def __init__(self) -> None:
        self.attributes: dict[str, object] = {}
        self.events: list[str] = []
        self.failed: list[str] = []
        self.children: list[Noted] = []
        self.ended = 0

    def child(self, name: str, attributes: Attributes, *, is_call: bool) -> Span:
        self.children.append(Noted())
        return self.children[-1]

    def set(self, attributes: Mapping[str, object]) -> None:
        self.attributes |= attributes

    def event(self, name: str, attributes: Attributes) -> None:
        self.events.append(name)

    def fail(self, error_type: str, message: str = "") -> None:
        self.failed.append(error_type)

    def headers(self) -> Headers:
        return ()

    def end(self) -> None:
        self.ended += 1


def test_off_there_is_nothing_to_tell() -> None:
    with spans.step("a") as span:
        assert span is None
    assert spans.begin("b") is None
    assert spans.current() is None
    assert spans.trace_id() == ""
    spans.tell(None, ValueError())
    spans.end(None)


def test_steps_nest_and_end() -> None:
    root = Noted()
    with spans.working_on(root), spans.step("a") as step:
        assert spans.current() is step is root.children[0]
        with spans.step("b"):
            pass
        assert spans.current() is step
    assert spans.current() is None
    assert [root.ended, root.children[0].ended, root.children[0].children[0].ended] == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "failed", "attributes"),
    [
        pytest.param(UpstreamTimeout("late"), ["upstream_timeout"], {}, id="of_ours"),
        pytest.param(
            InvalidRequest("bad", code="no_question"), [], {"error.type": "no_question"}, id="of_the_caller"
        ),
        pytest.param(ValueError("private words"), ["ValueError"], {}, id="unforeseen"),
    ],
)
def test_an_error_leaves_its_kind(
    error: TidegateError | ValueError, failed: list[str], attributes: dict[str, str]
) -> None:
    root = Noted()
    with pytest.raises(type(error)), spans.working_on(root):
        raise error
    assert (root.failed, root.attributes, root.ended) == (failed, attributes, 1)


async def test_a_step_that_is_cancelled_is_not_a_failed_one() -> None:
    root = Noted()

    async def work() -> None:
        with spans.working_on(root):
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (root.failed, root.events, root.ended) == ([], ["cancelled"], 1)


async def test_what_a_request_starts_is_part_of_its_trace() -> None:
    root = Noted()

    async def inner() -> Span | None:
        return spans.current()

    with spans.working_on(root):
        task = asyncio.create_task(inner())
    assert await task is root
    assert spans.current() is None
