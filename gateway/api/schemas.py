"""Request bodies, as OpenAI shapes them. Unknown fields are refused: a typo must not pass in silence."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.filters import Filter

_NO_NUL = r"\A[^\x00]*\Z"  # PostgreSQL has no place for one
Name = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_NUL)]
Id = Annotated[str, Meta(min_length=1, max_length=256, pattern=_NO_NUL)]
Key = Annotated[str, Meta(max_length=64, pattern=_NO_NUL)]
Value = Annotated[str, Meta(max_length=512, pattern=_NO_NUL)]
Metadata = Annotated[dict[Key, Value], Meta(max_length=16)]
Attributes = Annotated[dict[Key, Value | float | bool], Meta(max_length=16)]
Refs = Annotated[list[Id], Meta(max_length=64)]  # collections, by id or name
Stop = Annotated[str, Meta(min_length=1, max_length=256)]


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
    """The `tidegate` object of a chat request (DESIGN: contracts). collections: empty = all. retrieval: off = nothing
    is searched for, and the tier answers from the messages alone. cache: none = remembered and given again where the
    same request would get the same answer; use and refresh also where the words are drawn by chance."""

    collections: Refs | None = None
    retrieval: Literal["on", "off"] = "on"
    top_k: Annotated[int, Meta(ge=1, le=64)] | None = None
    filters: Filter | None = None
    conversation: Id | None = None
    priority: Literal["interactive", "standard", "batch"] = "interactive"
    deadline_ms: Annotated[int, Meta(le=86_400_000)] | None = None
    cache: Literal["use", "refresh", "off"] | None = None
    ticket: Annotated[str, Meta(max_length=400)] = ""
    events: bool = False


class ConversationRef(Struct):
    id: Id


class JsonSchema(Struct, forbid_unknown_fields=True):
    """strict: an answer is held to the schema whatever it says."""

    name: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,64}\Z")]
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class AsText(Struct, tag_field="type", tag="text"): ...


class AsJson(Struct, tag_field="type", tag="json_object"): ...


class AsSchema(Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: JsonSchema


ResponseFormat = AsText | AsJson | AsSchema


class ChatBody(Struct, forbid_unknown_fields=True):
    model: Name
    messages: Annotated[list[Message], Meta(min_length=1)]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None
    tidegate: Extension = msgspec.field(default_factory=Extension)
    # What stays when the answer is given (gateway/api/memory.py).
    conversation: Id | ConversationRef | None = None
    store: bool | None = None
    metadata: Metadata | None = None
    # Sampling has no meaning for quoted answers.
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=16)] | None = None
    # Accepted within OpenAI's ranges, without effect.
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    # Fields that promise something this service does not do; checked in `unsupported`.
    tools: list[Any] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    functions: list[Any] | None = None
    function_call: Any = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: dict[str, float] | None = None
    modalities: list[str] | None = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None
    moderation: Any = None

    def unsupported(self) -> str | None:
        """The first field that asks for something we do not do, or None."""
        if self.tools or self.functions:
            return "tools" if self.tools else "functions"
        if isinstance(self.response_format, AsJson):
            return "response_format"
        if self.logprobs or self.top_logprobs:
            return "logprobs"
        if self.modalities not in (None, [], ["text"]):
            return "modalities"
        for name in ("audio", "web_search_options", "prediction", "moderation"):
            if getattr(self, name) is not None:
                return name
        return None


class CompletionUpdate(Struct, forbid_unknown_fields=True):
    metadata: Metadata | None


class ItemPart(Struct):
    """Fields beyond these (annotations, log probabilities) are not kept of what a caller brings himself."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class Item(Struct):
    """A message to add to a conversation; other kinds of items have no meaning here."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[ItemPart], Meta(max_length=100)]
    type: Literal["message"] = "message"

    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


Items = Annotated[list[Item], Meta(max_length=20)]


class ConversationBody(Struct, forbid_unknown_fields=True):
    items: Items | None = None
    metadata: Metadata | None = None


class ConversationUpdate(Struct, forbid_unknown_fields=True):
    metadata: Metadata | None


class ItemsBody(Struct, forbid_unknown_fields=True):
    items: Annotated[list[Item], Meta(min_length=1, max_length=20)]
    include: list[str] | None = None  # nothing of what it may name exists here


class EmbeddingsBody(Struct, forbid_unknown_fields=True):
    model: Name
    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None


class ExpiresAfter(Struct):
    anchor: str
    days: int


class ChunkingStrategy(Struct):
    """Chunks are cut by structure; only OpenAI's `auto` says nothing against that."""

    type: Literal["auto"]


class StoreExtension(Struct, forbid_unknown_fields=True):
    """The `tidegate` object of a store. embedder: the model that its vectors are made by, now or from some time on."""

    embedder: Name | None = None


class VectorStoreBody(Struct, forbid_unknown_fields=True):
    name: Name | None = None
    description: str | None = None
    file_ids: Annotated[list[Id], Meta(max_length=500)] = []
    metadata: Metadata | None = None
    chunking_strategy: ChunkingStrategy | None = None
    expires_after: ExpiresAfter | None = None
    tidegate: StoreExtension = msgspec.field(default_factory=StoreExtension)


class VectorStoreUpdate(Struct, forbid_unknown_fields=True):
    name: Name | None = None
    metadata: Metadata | None = None
    expires_after: ExpiresAfter | None = None
    tidegate: StoreExtension = msgspec.field(default_factory=StoreExtension)


class AttachExtension(Struct, forbid_unknown_fields=True):
    """The `tidegate` object of an attachment. replaces: leaves the store when the new file becomes searchable."""

    replaces: Id | None = None


class AttachBody(Struct, forbid_unknown_fields=True):
    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None
    tidegate: AttachExtension = msgspec.field(default_factory=AttachExtension)


class BatchFile(Struct, forbid_unknown_fields=True):
    file_id: Id
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class BatchBody(Struct, forbid_unknown_fields=True):
    file_ids: Annotated[list[Id], Meta(max_length=2000)] = []
    files: Annotated[list[BatchFile], Meta(max_length=2000)] = []
    attributes: Attributes | None = None
    chunking_strategy: ChunkingStrategy | None = None


class AttributesBody(Struct, forbid_unknown_fields=True):
    attributes: Attributes | None = None


Score = Annotated[float, Meta(ge=0, le=1)]
NumResults = Annotated[int, Meta(ge=1, le=50)]


class RankingOptions(Struct):
    """ranker: which evidence orders the passages; OpenAI's own names mean the default, both."""

    ranker: Literal["auto", "default-2024-11-15", "none", "hybrid", "dense", "lexical"] | None = None
    score_threshold: Score | None = None


class SearchExtension(Struct, forbid_unknown_fields=True):
    """The `tidegate` object of a search. collections: searched together with the store of the path."""

    collections: Refs = []


class SearchBody(Struct, forbid_unknown_fields=True):
    query: str | Annotated[list[str], Meta(min_length=1, max_length=16)]
    max_num_results: NumResults = 10
    filters: Filter | None = None
    ranking_options: RankingOptions | None = None
    rewrite_query: bool | None = None
    tidegate: SearchExtension = msgspec.field(default_factory=SearchExtension)


class RetrieveBody(Struct, forbid_unknown_fields=True):
    """A gRPC `Retrieve`: a search over several collections at once."""

    query: str
    collections: Refs = []
    top_k: NumResults = 10
    score_threshold: Score = 0.0
    filters: Filter | None = None
