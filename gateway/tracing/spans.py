"""Steps of the request that the current task works for, as spans. Who keeps them is gateway/tracing/otlp.py's business.

Where traces are off, or the request is not sampled, nothing is current, and each call here is one look at a context
variable.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Protocol, TypeAlias

from gateway.errors import TidegateError

Value: TypeAlias = str | bool | int | float | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
Headers: TypeAlias = tuple[tuple[str, str], ...]

NO_ATTRIBUTES: Attributes = {}
CANCELLED = "cancelled"


class Span(Protocol):
    """One step under way. Attributes and events of one that has ended are ignored."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        ...

    @property
    def span_id(self) -> str:
        """16 hexadecimal digits."""
        ...

    def child(self, name: str, attributes: Attributes, *, is_call: bool) -> Span:
        """is_call: of another process, which may go on with the trace."""
        ...

    def set(self, attributes: Attributes) -> None: ...

    def event(self, name: str, attributes: Attributes) -> None:
        """Something that happened at this moment."""
        ...

    def fail(self, error_type: str, message: str = "") -> None:
        """It ends without its result, and whoever watches the service should know. error_type: empty = told already.
        message: public words."""
        ...

    def headers(self) -> Headers:
        """W3C's, for a call that is part of this step."""
        ...

    def end(self) -> None: ...


class Tracer(Protocol):
    def request(self, name: str, attributes: Attributes, headers: Mapping[str, str]) -> Span | None:
        """The span of a request that has just come in; None where it is not sampled. headers: W3C's of its client."""
        ...

    def close(self, timeout_s: float) -> None:
        """Send what waits, for at most timeout_s. Blocks: not for the event loop."""
        ...


_current: ContextVar[Span | None] = ContextVar("tidegate_span", default=None)
_NOTHING: AbstractContextManager[None] = nullcontext()


def current() -> Span | None:
    return _current.get()


def trace_id() -> str:
    """Of the current task's trace; empty where none is kept."""
    span = _current.get()
    return "" if span is None else span.trace_id


def begin(name: str, attributes: Attributes = NO_ATTRIBUTES, *, is_call: bool = False) -> Span | None:
    """A child of the current step that does not become the current one; whoever began it ends it (`end`)."""
    parent = _current.get()
    return None if parent is None else parent.child(name, attributes, is_call=is_call)


def end(span: Span | None) -> None:
    if span is not None:
        span.end()


def step(
    name: str, attributes: Attributes = NO_ATTRIBUTES, *, is_call: bool = False
) -> AbstractContextManager[Span | None]:
    """A child of the current step, current itself within the block. Not for the body of an async generator, whose
    caller would find it current."""
    span = begin(name, attributes, is_call=is_call)
    return _NOTHING if span is None else working_on(span)


@contextmanager
def working_on(span: Span) -> Iterator[Span]:
    """Make it the current step, and end it. A block that raises leaves its error in the span."""
    token = _current.set(span)
    try:
        yield span
    except BaseException as error:
        tell(span, error)
        raise
    finally:
        _current.reset(token)
        span.end()


def tell(span: Span | None, error: BaseException) -> None:
    """What went wrong. A caller's own fault, or its leaving, is told without making the step a failed one."""
    if span is None:
        return
    if isinstance(error, TidegateError):
        if error.status >= 500:
            span.fail(error.code, error.message)
        else:
            span.set({"error.type": error.code})
    elif isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.event(CANCELLED, NO_ATTRIBUTES)
    else:
        span.fail(type(error).__name__)  # its words are for the log
