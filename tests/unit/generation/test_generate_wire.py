"""What a client may send to `generate`, and the one sentence for what it may not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from gateway.generation.generate_wire import MAX_STOPS, MAX_TEXT_BYTES, GenerateRequest, decode_generate


def text(value: bytes) -> Any:
    return np.array([value], np.object_)


def decode(**values: Any) -> GenerateRequest:
    return decode_generate(values, max_tokens=100, temperature=0.5, top_p=0.9)


def test_what_is_left_out_is_the_tiers_default() -> None:
    request = decode(prompt=text(b"hello"))
    assert (request.prompt, request.messages) == ("hello", None)
    assert request.params.max_tokens == 100
    assert (request.params.temperature, request.params.top_p) == (0.5, 0.9)
    assert request.params.seed is None
    assert not request.params.ignore_eos
    assert (request.stop, request.continuation_ids, request.coalesce_ms) == ([], [], -1)


def test_everything_can_be_said() -> None:
    request = decode(
        messages=text('[{"role": "user", "content": "Größe 🌊"}]'.encode()),
        max_tokens=np.array([7], np.int32),
        temperature=np.array([0], np.float32),
        top_p=np.array([1], np.float32),
        seed=np.array([2**63 - 1], np.int64),
        stop=text(b'["END", "\\n\\n"]'),
        continuation_ids=np.array([4, 5], np.int32),
        ignore_eos=np.array([True]),
        coalesce_ms=np.array([0], np.int32),
    )
    assert request.messages == [{"role": "user", "content": "Größe 🌊"}]
    assert request.params.max_tokens == 7
    assert request.params.seed == 2**63 - 1
    assert request.stop == ["END", "\n\n"]
    assert request.continuation_ids == [4, 5]
    assert request.params.ignore_eos
    assert request.coalesce_ms == 0


def test_a_canary_asks_for_nothing() -> None:
    assert decode(max_tokens=np.array([0], np.int32)).params.max_tokens == 0


PROMPT = {"prompt": text(b"x")}
MESSAGE = b'{"role": "user", "content": "x"}'
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "neither prompt nor messages": ({}, "prompt: give either"),
    "both": ({**PROMPT, "messages": text(b"[" + MESSAGE + b"]")}, "prompt: give either"),
    "prompt is not UTF-8": ({"prompt": text(b"ab\xff")}, "prompt: not UTF-8 (byte 2)."),
    "prompt is huge": ({"prompt": text(b"x" * (MAX_TEXT_BYTES + 1))}, "prompt: 8388609 bytes"),
    "messages are no JSON": ({"messages": text(b"[{]")}, "messages: JSON is malformed"),
    "messages are no list": ({"messages": text(MESSAGE)}, "messages: Expected `array`"),
    "a message without a role": ({"messages": text(b'[{"content": "x"}]')}, "messages: "),
    "no message": ({"messages": text(b"[]")}, "messages: 0 of them"),
    "many messages": ({"messages": text(b"[" + b",".join([MESSAGE] * 10_001) + b"]")}, "messages: 10001"),
    "messages are deep": ({"messages": text(b"[" * 100_000)}, "messages: "),
    "half a surrogate": ({"messages": text(b'[{"role": "user", "content": "\\ud800"}]')}, "messages: "),
    "max_tokens is negative": ({**PROMPT, "max_tokens": np.array([-1], np.int32)}, "max_tokens: -1"),
    "temperature is NaN": ({**PROMPT, "temperature": np.array([np.nan], np.float32)}, "temperature: nan"),
    "temperature is infinite": ({**PROMPT, "temperature": np.array([np.inf], np.float32)}, "temperature: inf"),
    "temperature is negative": ({**PROMPT, "temperature": np.array([-0.1], np.float32)}, "temperature: -0.1"),
    "top_p is 0": ({**PROMPT, "top_p": np.array([0], np.float32)}, "top_p: 0 is not above 0"),
    "top_p is more than 1": ({**PROMPT, "top_p": np.array([1.5], np.float32)}, "top_p: 1.5"),
    "seed is negative": ({**PROMPT, "seed": np.array([-1], np.int64)}, "seed: -1"),
    "stop is a text": ({**PROMPT, "stop": text(b'"x"')}, "stop: Expected `array`"),
    "an empty stop": ({**PROMPT, "stop": text(b'[""]')}, "stop: each text must have"),
    "a long stop": ({**PROMPT, "stop": text(json.dumps(["x" * 1001]).encode())}, "stop: each text must have"),
    "many stops": ({**PROMPT, "stop": text(json.dumps(["x"] * 100_000).encode())}, f"the most is {MAX_STOPS}"),
    "coalesce_ms is huge": ({**PROMPT, "coalesce_ms": np.array([10**6], np.int32)}, "coalesce_ms: "),
    "coalesce_ms is below -1": ({**PROMPT, "coalesce_ms": np.array([-2], np.int32)}, "coalesce_ms: -2"),
}  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_one_sentence_that_names_the_tensor(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^[a-z_]+: ") as caught:
        decode(**values)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_schema_and_a_priority_are_taken() -> None:
    params = decode(
        prompt=text(b"hello"), json_schema=text(b'{"type":"object"}'), priority=np.array([2], np.int32)
    ).params
    assert (params.json_schema, params.priority) == ('{"type":"object"}', 2)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"json_schema": text(b"[1]")}, "json_schema: Expected `object`"),
        ({"json_schema": text(b"{")}, "json_schema: "),
        ({"json_schema": text(b'"' + b"x" * 70_000 + b'"')}, "json_schema: 70002 bytes; the most is 65536"),
        ({"priority": np.array([-1], np.int32)}, "priority: -1 is not at least 0"),
        ({"priority": np.array([101], np.int32)}, "priority: 101 is not at least 0 and at most 100"),
        (
            {"json_schema": text(b"{}"), "continuation_ids": np.array([1], np.int32)},
            "json_schema: an output cannot be continued",
        ),
    ],
)
def test_schemas_and_priorities_that_are_none_are_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^(json_schema|priority): ") as caught:
        decode(prompt=text(b"hello"), **values)
    assert sentence in str(caught.value)
