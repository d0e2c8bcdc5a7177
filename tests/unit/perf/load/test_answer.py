"""What became of a request, from the bytes of its answer."""

from __future__ import annotations

import pytest

from perf.load.answer import Broken, head_of, judge, unchunked

DONE = b"data: [DONE]\n\n"


def event(data: str, number: int = 0) -> bytes:
    return (f"id: r.{number}\n" if number else "").encode() + f"data: {data}\n\n".encode()


def text(word: str, number: int = 0) -> bytes:
    return event('{"choices":[{"delta":{"content":"WORD"}}]}'.replace("WORD", word), number)


def test_a_whole_answer_is_complete_and_tells_its_receipt() -> None:
    queue = event('{"choices":[],"tidegate":{"queue":{"position":3,"eta_s":1.5}}}', 1)
    last = event(
        '{"choices":[],"usage":{"completion_tokens":7},"tidegate":{"receipt":{"tier":"deep","queue_ms":1200}}}',
        3,
    )
    found = judge(200, b": keep-alive\n\n" + queue + text("a", 2) + last + DONE, "a")
    assert (found.outcome, found.tier, found.num_tokens) == ("completed", "deep", 7)
    assert (found.eta_s, found.queue_s, found.num_keepalives) == (1.5, 1.2, 1)


@pytest.mark.parametrize(
    ("status", "body", "outcome", "code"),
    [
        (503, b'{"error":{"code":"capacity"}}', "rejected", "capacity"),
        (429, b'{"error":{"code":"rate_limit_exceeded"}}', "rejected", "rate_limit_exceeded"),
        (503, b"<html>nginx</html>", "rejected", "503"),
        (503, b'{"error":{"code":"queue_ttl"}}', "evicted", "queue_ttl"),
        (408, b'{"error":{"code":"deadline_exceeded"}}', "evicted", "deadline_exceeded"),
        (500, b"", "failed", "500"),
        (200, event('{"error":{"code":"queue_ttl"}}'), "evicted", "queue_ttl"),
        (200, event('{"error":{"code":"upstream_error"}}'), "failed", "upstream_error"),
        (200, text("a"), "failed", "cut"),
        (200, event('{"tidegate": }') + DONE, "failed", "malformed"),
        (200, event('{"tidegate": [1]}') + DONE, "failed", "malformed"),
        (
            200,
            event('{"usage": {"completion_tokens": 1}}') + event('{"usage": 3}') + DONE,
            "failed",
            "malformed",
        ),
        (200, text("a") + text("a") + DONE, "failed", "wrong_text"),
        (200, text("a", 1) + event("{}", 1) + DONE, "failed", "event_lost_or_doubled"),
    ],
)
def test_every_other_end_has_its_outcome(status: int, body: bytes, outcome: str, code: str) -> None:
    found = judge(status, body, "a")
    assert (found.outcome, found.code) == (outcome, code)


def test_heads_are_read_whatever_their_case() -> None:
    head = head_of(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\nContent-Length: 5\r\nConnection: close")
    assert (head.status, head.length, head.is_last, head.retry_after_s) == (503, 5, True, 2.0)
    with pytest.raises(Broken):
        head_of(b"garbage")


def test_a_body_that_breaks_off_is_broken() -> None:
    assert unchunked(b"2\r\nab\r\n0\r\n\r\n") == b"ab"
    with pytest.raises(Broken):
        unchunked(b"2\r\nab\r\n")
