"""What an HTTP answer was: its outcome, its words, what its receipt says. Pure: bytes in, a verdict out."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from perf.streams import texts

EVICTED = ("queue_ttl", "displaced", "deadline_exceeded", "client_gone")
REFUSALS = (429, 503)
DONE = b"data: [DONE]"
# Raised by whatever a peer may send.
UNREADABLE = (msgspec.MsgspecError, AttributeError, KeyError, TypeError, ValueError)
KEEPALIVE = re.compile(rb"^:", re.MULTILINE)
_DATA = re.compile(rb"^data: ?(\{.*\})\r?$", re.MULTILINE)
_ID = re.compile(rb"^id: \S+\.(\d+)\r?$", re.MULTILINE)


class Verdict(msgspec.Struct, kw_only=True):
    """outcome and code as in a row; the rest 0, "" or -1 where the answer does not say it."""

    outcome: str
    code: str = ""
    tier: str = ""
    num_tokens: int = 0
    num_keepalives: int = 0
    queue_s: float = -1.0
    eta_s: float = -1.0


class Broken(ValueError):
    """The bytes are no whole HTTP answer."""


def judge(status: int, body: bytes, expected: str | None) -> Verdict:
    """What became of a request whose answer came to its end. expected: the whole text; None = any."""
    if status != 200:
        code = _error_code(body)
        if status in REFUSALS or code in EVICTED:
            return Verdict(outcome="evicted" if code in EVICTED else "rejected", code=code or str(status))
        return Verdict(outcome="failed", code=code or str(status))
    try:
        verdict = _stream(body)
        problem = _problem(body, expected) if verdict.outcome == "completed" else ""
    except UNREADABLE:
        return Verdict(outcome="failed", code="malformed")
    if problem:
        verdict.outcome, verdict.code = "failed", problem
    return verdict


def _stream(body: bytes) -> Verdict:
    """Reads only the events that say something beside text."""
    out = Verdict(outcome="completed", num_keepalives=len(KEEPALIVE.findall(body)))
    for raw in _DATA.findall(body):
        if b'"tidegate"' in raw or b'"usage"' in raw or b'"error"' in raw:
            _read(msgspec.json.decode(raw), out)
    out.num_tokens = out.num_tokens or len(texts(body))
    return out


def _read(event: dict[str, Any], out: Verdict) -> None:
    if error := event.get("error"):
        out.code = str(error.get("code") or "error")
        out.outcome = "evicted" if out.code in EVICTED else "failed"
    out.num_tokens = (event.get("usage") or {}).get("completion_tokens", 0) or out.num_tokens
    ours = event.get("tidegate") or {}
    if (queue := ours.get("queue")) and out.eta_s < 0:  # the first one: what a caller goes by
        out.eta_s = float(queue.get("eta_s") or -1.0)
    if receipt := ours.get("receipt"):
        out.tier = str(receipt.get("tier", ""))
        queue_ms = float(receipt.get("queue_ms", -1))
        out.queue_s = queue_ms / 1000 if queue_ms >= 0 else -1.0
        if receipt.get("outcome") == "cached":
            out.outcome = "cached"


def _problem(body: bytes, expected: str | None) -> str:
    if DONE not in body:
        return "cut"
    numbers = [int(number) for number in _ID.findall(body)]
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        return "event_lost_or_doubled"
    if expected is not None and "".join(texts(body)) != expected:
        return "wrong_text"
    return ""


def _error_code(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body)["error"]
        return str(error.get("code") or "")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return ""


class Head(msgspec.Struct, frozen=True):
    """An answer's head. length: of the body, -1 = in chunks or until the connection ends."""

    status: int
    is_chunked: bool
    length: int
    is_last: bool  # the connection ends with this answer
    retry_after_s: float


def head_of(raw: bytes) -> Head:
    """raw: the head without the empty line. Raises: Broken."""
    line, *lines = raw.split(b"\r\n")
    try:
        status = int(line.split(b" ", 2)[1])
    except (IndexError, ValueError):
        raise Broken(repr(raw[:100])) from None
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (each.partition(b":") for each in lines)
    }
    return Head(
        status=status,
        is_chunked=b"chunked" in fields.get(b"transfer-encoding", b"").lower(),
        length=int(fields.get(b"content-length", b"-1")),
        is_last=fields.get(b"connection", b"").lower() == b"close",
        retry_after_s=_seconds(fields.get(b"retry-after", b"")),
    )


def _seconds(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        return -1.0


def unchunked(rest: bytes) -> bytes:
    """A body without its chunks' framing. Raises: Broken when it does not end as it should."""
    parts, at = [], 0
    try:
        while True:
            line = rest.index(b"\r\n", at)
            size = int(rest[at:line].partition(b";")[0], 16)
            if not size:
                return b"".join(parts)
            parts.append(rest[line + 2 : line + 2 + size])
            at = line + 2 + size + 2
    except ValueError:
        raise Broken("the last chunk is missing") from None
