from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import (
    PromptTooLong,
    TidegateError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.generation.upstream_wire import MAX_EVENT_BYTES, MAX_SHOWN_CHARS, EventReader, chunk_of, refusal

STREAM = (
    b': hello\r\n\r\ndata: {"a": 1}\n\nevent: x\nid: 7\ndata:two\ndata: lines\r\n\r\n\n\ndata: [DONE]\n\n'
)
EVENTS = [b'{"a": 1}', b"two\nlines", b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    reader, at, found = EventReader(), 0, []
    for cut in [*sorted(cuts), len(STREAM)]:
        found += reader.feed(STREAM[at:cut])
        at = cut
    assert found == EVENTS


def test_an_event_without_its_end_is_none() -> None:
    assert EventReader().feed(b'data: {"a": 1}\n') == []


def test_an_event_without_end_is_bounded() -> None:
    for line in (b"data: " + b"x" * 60_000, b"data: " + b"x" * 60_000 + b"\n"):
        reader = EventReader()
        for _ in range(MAX_EVENT_BYTES // 60_000):
            reader.feed(line)
        with pytest.raises(UpstreamProtocolError, match="malformed"):
            reader.feed(line)


@pytest.mark.parametrize(
    ("data", "text", "is_token", "finish_reason"),
    [
        (b'{"choices":[{"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}]}', "Hi", True, ""),
        (b'{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}', "", True, ""),
        (b'{"choices":[{"delta":{},"finish_reason":"length"}]}', "", False, "length"),
        (b'{"choices":[{"delta":null,"finish_reason":"stop"}]}', "", False, "stop"),
        (b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', "", False, ""),
        (b'{"choices":null}', "", False, ""),
        (b"{}", "", False, ""),
    ],
    ids=["text", "reasoning", "finish", "no-delta", "usage", "null", "empty"],
)
def test_a_chunk_is_read_in_all_its_forms(data: bytes, text: str, is_token: bool, finish_reason: str) -> None:
    chunk = chunk_of(data, "large")
    assert (chunk.text, chunk.is_token, chunk.finish_reason) == (text, is_token, finish_reason)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'"x"', b'{"choices":7}', b'{"choices":[{"delta":{"content":7}}]}', b"\xff"]
)
def test_what_is_no_chunk_is_malformed(data: bytes) -> None:
    with pytest.raises(UpstreamProtocolError):
        chunk_of(data, "large")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ('{"message":"busy","code":429}', UpstreamOverloaded),
        ('{"message":"busy","type":"rate_limit_error","code":null}', UpstreamOverloaded),
        ('{"message":"broke","code":"500"}', UpstreamUnavailable),
        ('"just words"', UpstreamUnavailable),
        ('{"message":"no","code":400}', UpstreamError),
        ('{"message":"This model\'s maximum context length is 8 tokens","code":400}', PromptTooLong),
    ],
    ids=["429", "rate", "500", "text", "400", "long"],
)
def test_an_error_inside_the_stream_is_told_by_its_kind(error: str, kind: type[TidegateError]) -> None:
    with pytest.raises(TidegateError) as raised:
        chunk_of(b'{"error":' + error.encode() + b"}", "large")
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"error":{"code":"context_length_exceeded","message":"x"}}', PromptTooLong),
        (400, b'{"error":{"message":"temperature is not supported"}}', UpstreamError),
        (401, b'{"error":{"message":"bad key"}}', UpstreamUnavailable),
        (404, b"<html>", UpstreamUnavailable),
        (307, b"", UpstreamUnavailable),
        (429, b"", UpstreamOverloaded),
        (500, b"\xff\xfe", UpstreamUnavailable),
        (503, b"[" * 100_000, UpstreamUnavailable),
        (504, b"", UpstreamTimeout),
    ],
    ids=str,
)
def test_a_refusal_is_told_by_its_kind(status: int, body: bytes, kind: type[TidegateError]) -> None:
    error = refusal("large", status, {}, body)
    assert type(error) is kind
    assert "large" in error.message
    assert "bad key" not in error.message
    assert len(error.detail) < MAX_SHOWN_CHARS + 40


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7.0), ("0.25", 0.25), ("-3", 0.0), ("1e9", 3600.0), ("inf", 1.0), ("nan", 1.0), ("soon", 1.0)],
)
def test_retry_after_is_taken_within_reason(text: str, seconds: float) -> None:
    assert refusal("large", 429, {"retry-after": text}, b"").delay_s() == seconds
    assert refusal("large", 503, {"retry-after": text}, b"").delay_s() == seconds
