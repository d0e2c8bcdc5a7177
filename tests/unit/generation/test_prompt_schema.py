"""The prompt of an answer that is JSON."""

from __future__ import annotations

from gateway.generation.prompt import AS_JSON, PromptBuilder
from gateway.types import Inquiry, Sampling, Turn
from tests.fakes.chat import ByteChat
from tests.fakes.engines import PASSAGES

SCHEMA = '{"type":"object","properties":{"gates":{"type":"array"}}}'


def test_the_schema_stands_before_the_passages_and_is_counted() -> None:
    builder = PromptBuilder("small", ByteChat(), context_tokens=8192, max_tokens=100)
    asked = Inquiry(question="Why?", history=[Turn("system", "Be kind.")])
    plain = builder.build(asked, PASSAGES)
    as_json = builder.build(
        Inquiry(question="Why?", history=asked.history, sampling=Sampling(json_schema=SCHEMA)), PASSAGES
    )
    text = as_json.messages[0]["content"]
    assert text.index("Be kind.") < text.index(AS_JSON) < text.index(SCHEMA) < text.index("<passage number")
    assert as_json.num_tokens - plain.num_tokens >= len(AS_JSON) + len(SCHEMA)
    assert AS_JSON not in plain.messages[0]["content"]
