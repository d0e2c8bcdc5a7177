"""A request to `generate` as it comes over the wire: optional tensors in, checked values out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from gateway.ports import GenerationParams

MAX_TEXT_BYTES = 8 * 2**20
MAX_MESSAGES = 10_000
MAX_STOPS, MAX_STOP_CHARS = 16, 1000
MAX_TEMPERATURE = 100.0
MAX_COALESCE_MS = 10_000
MAX_SCHEMA_BYTES = 64 * 2**10
MAX_PRIORITY = 100

Decoded = TypeVar("Decoded")


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


_messages = msgspec.json.Decoder(list[Message])
_stops = msgspec.json.Decoder(list[str])
_schema = msgspec.json.Decoder(dict[str, Any])


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Either prompt or messages is given. params.max_tokens: of all the output, continuation_ids included."""

    prompt: str | None
    messages: list[dict[str, str]] | None
    params: GenerationParams
    stop: list[str]
    continuation_ids: list[int]
    coalesce_ms: int


def decode_generate(
    values: Mapping[str, Any], *, max_tokens: int, temperature: float, top_p: float
) -> GenerateRequest:
    """The checked request. values: numpy arrays by tensor name, those that came. The rest: the tier's defaults.

    Raises: ValueError with one sentence that names the tensor at fault.
    """
    prompt, messages = values.get("prompt"), values.get("messages")
    asked_tokens = int(_scalar(values, "max_tokens", max_tokens))
    if asked_tokens < 0:
        raise ValueError(f"max_tokens: {asked_tokens} is negative.")
    if asked_tokens and (prompt is None) == (messages is None):
        raise ValueError("prompt: give either this or messages, and not both.")
    if "json_schema" in values and "continuation_ids" in values:
        raise ValueError(
            "json_schema: an output cannot be continued under it, so leave out continuation_ids."
        )
    return GenerateRequest(
        prompt=None if prompt is None else _text("prompt", prompt),
        messages=None if messages is None else _messages_of(messages),
        params=GenerationParams(
            max_tokens=asked_tokens,
            temperature=_within(
                "temperature", _scalar(values, "temperature", temperature), 0.0, MAX_TEMPERATURE
            ),
            top_p=_within("top_p", _scalar(values, "top_p", top_p), 0.0, 1.0, is_open=True),
            seed=_seed(values),
            ignore_eos=bool(_scalar(values, "ignore_eos", False)),
            json_schema=_schema_of(values.get("json_schema")),
            priority=int(_within("priority", _scalar(values, "priority", 0), 0, MAX_PRIORITY)),
        ),
        stop=_stops_of(values.get("stop")),
        continuation_ids=values["continuation_ids"].tolist() if "continuation_ids" in values else [],
        coalesce_ms=int(_within("coalesce_ms", _scalar(values, "coalesce_ms", -1), -1, MAX_COALESCE_MS)),
    )


def _scalar(values: Mapping[str, Any], name: str, default: Any) -> Any:
    return values[name].flat[0].item() if name in values else default


def _seed(values: Mapping[str, Any]) -> int | None:
    seed = _scalar(values, "seed", None)
    if seed is not None and seed < 0:
        raise ValueError(f"seed: {seed} is negative.")
    return None if seed is None else int(seed)


def _within(name: str, value: float, low: float, high: float, *, is_open: bool = False) -> float:
    """NaN is within nothing. is_open: `low` itself is not allowed."""
    if not math.isfinite(value) or not low <= value <= high or (is_open and value == low):
        raise ValueError(
            f"{name}: {value:g} is not {'above' if is_open else 'at least'} {low:g} and at most {high:g}."
        )
    return value


def _text(name: str, value: Any) -> str:
    raw: bytes = value[0]
    if len(raw) > MAX_TEXT_BYTES:
        raise ValueError(f"{name}: {len(raw)} bytes; the most is {MAX_TEXT_BYTES}.")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start}).") from None


def _decoded(name: str, decoder: msgspec.json.Decoder[Decoded], value: Any) -> Decoded:
    try:
        return decoder.decode(_text(name, value))
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{name}: {error}.") from None


def _messages_of(value: Any) -> list[dict[str, str]]:
    found = _decoded("messages", _messages, value)
    if not 1 <= len(found) <= MAX_MESSAGES:
        raise ValueError(f"messages: {len(found)} of them; there may be 1 to {MAX_MESSAGES}.")
    return [{"role": each.role, "content": each.content} for each in found]


def _schema_of(value: Any) -> str:
    if value is None:
        return ""
    if len(value[0]) > MAX_SCHEMA_BYTES:
        raise ValueError(f"json_schema: {len(value[0])} bytes; the most is {MAX_SCHEMA_BYTES}.")
    _decoded("json_schema", _schema, value)
    return _text("json_schema", value)


def _stops_of(value: Any) -> list[str]:
    if value is None:
        return []
    found = _decoded("stop", _stops, value)
    if len(found) > MAX_STOPS:
        raise ValueError(f"stop: {len(found)} texts; the most is {MAX_STOPS}.")
    if any(not 1 <= len(each) <= MAX_STOP_CHARS for each in found):
        raise ValueError(f"stop: each text must have 1 to {MAX_STOP_CHARS} characters.")
    return found
