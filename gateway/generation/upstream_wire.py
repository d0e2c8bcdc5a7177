"""OpenAI's chat completions as a client reads them: server-sent events, chunks, and what a refusal means. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import (
    PromptTooLong,
    TidegateError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)

MAX_EVENT_BYTES = 2**20
MAX_SHOWN_CHARS = 300  # of a server's own words, in the log
MAX_RETRY_AFTER_S = 3600.0
DONE = b"[DONE]"
# Words by which servers say that a prompt is longer than the model's context.
_TOO_LONG = ("context_length", "context length", "maximum context", "max_model_len", "too many tokens")


class Words(msgspec.Struct, frozen=True):
    """reasoning: what a model says to itself. It is never shown, but shows that the server works."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class Choice(msgspec.Struct, frozen=True):
    delta: Words | None = None
    finish_reason: str | None = None


class Counts(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Chunk(msgspec.Struct, frozen=True):
    """One event. Fields that we do not use are not looked at."""

    choices: list[Choice] | None = None
    usage: Counts | None = None
    error: Any = None

    @property
    def text(self) -> str:
        return (self._words.content or "") if self._words else ""

    @property
    def is_token(self) -> bool:
        words = self._words
        return words is not None and bool(words.content or words.reasoning_content or words.reasoning)

    @property
    def finish_reason(self) -> str:
        return (self.choices[0].finish_reason or "") if self.choices else ""

    @property
    def shows_work(self) -> bool:
        """Whether the server gets on: a comment, or an event that says nothing, shows only that it is there."""
        return self.is_token or bool(self.finish_reason) or self.usage is not None

    @property
    def _words(self) -> Words | None:
        return self.choices[0].delta if self.choices else None


_decode = msgspec.json.Decoder(Chunk).decode


class EventReader:
    """Bytes in, as they come; the data of whole events out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._num_bytes = 0  # of the event that is under way

    def feed(self, piece: bytes) -> list[bytes]:
        """Raises: UpstreamProtocolError when one event is beyond MAX_EVENT_BYTES."""
        if not self._rest and not self._data and (events := _whole_events(piece)) is not None:
            return events
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    events.append(b"\n".join(self._data))
                self._data, self._num_bytes = [], 0
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
                self._num_bytes += len(line)
        if self._num_bytes + len(self._rest) > MAX_EVENT_BYTES:
            raise malformed(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events


def _whole_events(piece: bytes) -> list[bytes] | None:
    """The data of events of the form that nearly every server writes, each `data: ` and one line; None = other ones."""
    if not piece.startswith(b"data: ") or not piece.endswith(b"\n\n") or len(piece) > MAX_EVENT_BYTES:
        return None
    events = piece[6:-2].split(b"\n\ndata: ")
    lines = piece.count(b"\n")
    return events if lines == 2 * len(events) and b"\r" not in piece else None


class ChunkReader:
    """The chunks of one answer. max_bytes: of all of it.

    is_done: [DONE] came; failure: what is to be raised after the chunks that were given.
    """

    def __init__(self, tier: str, max_bytes: int) -> None:
        self._tier, self._left_bytes = tier, max_bytes
        self._events = EventReader()
        self.is_done = False
        self.failure: TidegateError | None = None

    def feed(self, piece: bytes) -> list[Chunk]:
        """Those of all events that are whole now, as far as they are good."""
        chunks: list[Chunk] = []
        self._left_bytes -= len(piece)
        try:
            if self._left_bytes < 0:
                raise malformed("far more bytes than were asked for")
            for data in self._events.feed(piece):
                if data == DONE:
                    self.is_done = True
                    break
                chunks.append(chunk_of(data, self._tier))
        except TidegateError as error:
            self.failure = error
        return chunks


def chunk_of(data: bytes, tier: str) -> Chunk:
    """Raises: UpstreamProtocolError; what an error inside the stream stands for."""
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(f"{error}: {_shown(data)}") from error
    if chunk.error is not None:
        raise _told(tier, _status_in(chunk.error), chunk.error)
    return chunk


def malformed(detail: str) -> UpstreamProtocolError:
    return UpstreamProtocolError("The model server gave a malformed answer.", detail=f"upstream: {detail}")


def away(tier: str, detail: str) -> UpstreamUnavailable:
    return UpstreamUnavailable(f"The tier {tier!r} is not available.", detail=f"upstream: {detail}")


class OutOfTime(UpstreamTimeout):
    """The request's own time was over before the server's: nothing is known of the server."""

    code = "request_timeout"


def too_late(tier: str, detail: str, *, is_own: bool = False) -> UpstreamTimeout:
    """is_own: the request had no more time, which may be its caller's choice."""
    kind = OutOfTime if is_own else UpstreamTimeout
    return kind(f"The tier {tier!r} did not answer in time.", detail=f"upstream: {detail}")


def refusal(tier: str, status: int, headers: Mapping[str, str], body: bytes) -> TidegateError:
    """What an answer without 200 means."""
    try:
        told = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        told = body.decode("utf-8", "replace")
    error = _told(tier, status, told)
    if isinstance(error, UpstreamUnavailable):
        error.retry_after_s = _retry_after_s(headers)
    return error


def _told(tier: str, status: int, told: Any) -> TidegateError:
    detail = f"HTTP {status}: {_shown(told)}"
    if status == 429:
        return UpstreamOverloaded(
            f"The tier {tier!r} has no room at this moment.", detail=f"upstream: {detail}"
        )
    if status in {408, 504}:
        return too_late(tier, detail)
    if status in {400, 413, 422} and any(mark in str(told).lower() for mark in _TOO_LONG):
        return PromptTooLong(
            f"The question and its passages are too long for the tier {tier!r}.",
            param="messages",
            detail=detail,
        )
    if status in {400, 413, 422}:
        return UpstreamError(f"The tier {tier!r} refused the request.", detail=f"upstream: {detail}")
    return away(tier, detail)  # 5xx; and a key, a model or an address that the operator has to correct


def _status_in(error: Any) -> int:
    """Of an error inside a stream: its `code`, where that is a status; else 500."""
    code = error.get("code") if isinstance(error, dict) else None
    kind = str(error.get("type", "")) if isinstance(error, dict) else ""
    if "rate_limit" in f"{code} {kind}" or "overloaded" in f"{code} {kind}":
        return 429
    number = int(code) if isinstance(code, int | str) and str(code).isdecimal() else 500
    return number if 400 <= number <= 599 else 500


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds alone: the form with a date is not used by servers of this kind."""
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _shown(told: Any) -> str:
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else str(told)
    return " ".join(text.split())[:MAX_SHOWN_CHARS]
