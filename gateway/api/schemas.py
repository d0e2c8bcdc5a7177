"""Request bodies, as OpenAI shapes them. Unknown fields are refused: a typo must not pass in silence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

Text = Annotated[str, Meta(max_length=200_000)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Id = Annotated[str, Meta(min_length=1, max_length=256)]
Metadata = dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]]
Attributes = dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)] | float | bool]


class TextPart(Struct, forbid_unknown_fields=True):
    type: Literal["text", "input_text"]
    text: str


class Message(Struct):
    """Fields beyond these (name, tool calls, annotations of an earlier answer…) are the client's own memory."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Meta(max_length=100)] | None = None

    def text(self) -> str:
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(Struct):
    include_usage: bool = False
    include_obfuscation: bool = False


class Extension(Struct, forbid_unknown_fields=True):
    """The `tidegate` object of a chat request (DESIGN: contracts)."""

    collections: Annotated[list[Id], Meta(max_length=64)] = []
    top_k: Annotated[int, Meta(ge=1, le=64)] | None = None
    filters: None = None
    priority: Literal["interactive", "standard", "batch"] = "interactive"
    deadline_ms: Annotated[int, Meta(le=86_400_000)] | None = None
    cache: Literal["use", "refresh", "off"] = "use"
    events: bool = False


class ChatBody(Struct, forbid_unknown_fields=True):
    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    tidegate: Extension = msgspec.field(default_factory=Extension)
    # Sampling has no meaning for quoted answers; accepted within OpenAI's ranges.
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Meta(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # Fields that promise something this service does not do; checked in `unsupported`.
    tools: list[Raw] | None = None
    tool_choice: Raw | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Raw] | None = None
    function_call: Raw | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: Raw | None = None
    prediction: Raw | None = None
    web_search_options: Raw | None = None

    def unsupported(self) -> str | None:
        """The first field that asks for something we do not do, or None."""
        if self.tools or self.functions:
            return "tools" if self.tools else "functions"
        if self.response_format is not None and self.response_format.get("type") != "text":
            return "response_format"
        if self.logprobs or self.top_logprobs:
            return "logprobs"
        if self.modalities not in (None, [], ["text"]):
            return "modalities"
        for name in ("audio", "web_search_options", "prediction"):
            raw = getattr(self, name)
            if raw is not None and bytes(raw) != b"null":
                return name
        return None


class EmbeddingsBody(Struct, forbid_unknown_fields=True):
    model: Name
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class ExpiresAfter(Struct):
    anchor: str
    days: int


class VectorStoreBody(Struct, forbid_unknown_fields=True):
    name: Name | None = None
    description: str | None = None
    file_ids: Annotated[list[Id], Meta(max_length=500)] = []
    metadata: Metadata | None = None
    chunking_strategy: Raw | None = None
    expires_after: ExpiresAfter | None = None


class VectorStoreUpdate(Struct, forbid_unknown_fields=True):
    name: Name | None = None
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None


class AttachBody(Struct, forbid_unknown_fields=True):
    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: Raw | None = None


class AttributesBody(Struct, forbid_unknown_fields=True):
    attributes: Attributes | None = None


class SearchBody(Struct, forbid_unknown_fields=True):
    query: str | Annotated[list[str], Meta(min_length=1, max_length=16)]
    max_num_results: Annotated[int, Meta(ge=1, le=50)] = 10
    filters: None = None
    ranking_options: dict[str, Any] | None = None
    rewrite_query: bool | None = None
