"""Server-sent events, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.client import MAX_EVENT_BYTES, SseEvent, SseParser

STREAM = (
    b"\xef\xbb\xbf: keep-alive\n\n"
    b'id: a.1\ndata: {"x": "\xe2\x80\xa8 \xc3\xa9"}\n\n'
    b"event: notice\r\nid: a.2\r\ndata:one\r\ndata: two\r\n\r\n"
    b"retry: 10\n\n"
    b"data: [DONE]\n\n"
)
EVENTS = [
    SseEvent('{"x": "\u2028 é"}', id="a.1"),
    SseEvent("one\ntwo", event="notice", id="a.2"),
    SseEvent("[DONE]", id="a.2"),
]


def test_a_whole_stream_is_read() -> None:
    assert SseParser().feed(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_cuts_do_not_change_the_events(cuts: list[int]) -> None:
    bounds = [0, *sorted(cuts), len(STREAM)]
    parser = SseParser()
    chunks = [STREAM[start:end] for start, end in pairwise(bounds)]
    assert [event for chunk in chunks for event in parser.feed(chunk)] == EVENTS


def test_lone_carriage_returns_end_lines() -> None:
    assert SseParser().feed(b"data: a\r\rdata: b\r\r:") == [SseEvent("a"), SseEvent("b")]


def test_an_event_without_its_blank_line_is_not_told() -> None:
    assert SseParser().feed(b"data: half\n") == []


def test_an_endless_event_is_refused() -> None:
    parser = SseParser()
    for _ in range(MAX_EVENT_BYTES // 2**20 - 1):
        parser.feed(b"data: " + b"x" * 2**20 + b"\n")
    with pytest.raises(ValueError, match="too long"):
        parser.feed(b"data: " + b"x" * 2**20 + b"\n")
