from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Role(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLE_UNSPECIFIED: _ClassVar[Role]
    ROLE_SYSTEM: _ClassVar[Role]
    ROLE_DEVELOPER: _ClassVar[Role]
    ROLE_USER: _ClassVar[Role]
    ROLE_ASSISTANT: _ClassVar[Role]
    ROLE_TOOL: _ClassVar[Role]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_INTERACTIVE: _ClassVar[Priority]
    PRIORITY_STANDARD: _ClassVar[Priority]
    PRIORITY_BATCH: _ClassVar[Priority]

class CacheUse(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CACHE_USE_UNSPECIFIED: _ClassVar[CacheUse]
    CACHE_USE_USE: _ClassVar[CacheUse]
    CACHE_USE_REFRESH: _ClassVar[CacheUse]
    CACHE_USE_OFF: _ClassVar[CacheUse]

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_RECEIVED: _ClassVar[Stage]
    STAGE_RETRIEVING: _ClassVar[Stage]
    STAGE_QUEUED: _ClassVar[Stage]
    STAGE_GENERATING: _ClassVar[Stage]
    STAGE_DONE: _ClassVar[Stage]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]
    FINISH_REASON_NO_ANSWER: _ClassVar[FinishReason]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_COMPLETED: _ClassVar[Outcome]
    OUTCOME_CACHED: _ClassVar[Outcome]
    OUTCOME_REJECTED: _ClassVar[Outcome]
    OUTCOME_EVICTED: _ClassVar[Outcome]
    OUTCOME_FAILED: _ClassVar[Outcome]
ROLE_UNSPECIFIED: Role
ROLE_SYSTEM: Role
ROLE_DEVELOPER: Role
ROLE_USER: Role
ROLE_ASSISTANT: Role
ROLE_TOOL: Role
PRIORITY_UNSPECIFIED: Priority
PRIORITY_INTERACTIVE: Priority
PRIORITY_STANDARD: Priority
PRIORITY_BATCH: Priority
CACHE_USE_UNSPECIFIED: CacheUse
CACHE_USE_USE: CacheUse
CACHE_USE_REFRESH: CacheUse
CACHE_USE_OFF: CacheUse
STAGE_UNSPECIFIED: Stage
STAGE_RECEIVED: Stage
STAGE_RETRIEVING: Stage
STAGE_QUEUED: Stage
STAGE_GENERATING: Stage
STAGE_DONE: Stage
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
FINISH_REASON_NO_ANSWER: FinishReason
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_COMPLETED: Outcome
OUTCOME_CACHED: Outcome
OUTCOME_REJECTED: Outcome
OUTCOME_EVICTED: Outcome
OUTCOME_FAILED: Outcome

class ChatRequest(_message.Message):
    __slots__ = ("model", "messages", "collections", "top_k", "priority", "cache", "events", "max_tokens", "temperature", "top_p", "seed", "stop", "filters", "conversation", "store", "metadata", "ticket", "response_format", "without_documents")
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    TICKET_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FORMAT_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    messages: _containers.RepeatedCompositeFieldContainer[Message]
    collections: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    priority: Priority
    cache: CacheUse
    events: bool
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    filters: str
    conversation: str
    store: bool
    metadata: _containers.ScalarMap[str, str]
    ticket: str
    response_format: str
    without_documents: bool
    def __init__(self, model: _Optional[str] = ..., messages: _Optional[_Iterable[_Union[Message, _Mapping]]] = ..., collections: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., cache: _Optional[_Union[CacheUse, str]] = ..., events: _Optional[bool] = ..., max_tokens: _Optional[int] = ..., temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., seed: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., filters: _Optional[str] = ..., conversation: _Optional[str] = ..., store: _Optional[bool] = ..., metadata: _Optional[_Mapping[str, str]] = ..., ticket: _Optional[str] = ..., response_format: _Optional[str] = ..., without_documents: _Optional[bool] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: Role
    content: str
    def __init__(self, role: _Optional[_Union[Role, str]] = ..., content: _Optional[str] = ...) -> None: ...

class ChatEvent(_message.Message):
    __slots__ = ("stage", "queue", "delta", "done")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    stage: StageEvent
    queue: QueueEvent
    delta: Delta
    done: Done
    def __init__(self, stage: _Optional[_Union[StageEvent, _Mapping]] = ..., queue: _Optional[_Union[QueueEvent, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ...) -> None: ...

class StageEvent(_message.Message):
    __slots__ = ("stage",)
    STAGE_FIELD_NUMBER: _ClassVar[int]
    stage: Stage
    def __init__(self, stage: _Optional[_Union[Stage, str]] = ...) -> None: ...

class QueueEvent(_message.Message):
    __slots__ = ("position", "eta_s")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ETA_S_FIELD_NUMBER: _ClassVar[int]
    position: int
    eta_s: float
    def __init__(self, position: _Optional[int] = ..., eta_s: _Optional[float] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "citations")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CITATIONS_FIELD_NUMBER: _ClassVar[int]
    text: str
    citations: _containers.RepeatedCompositeFieldContainer[Citation]
    def __init__(self, text: _Optional[str] = ..., citations: _Optional[_Iterable[_Union[Citation, _Mapping]]] = ...) -> None: ...

class Citation(_message.Message):
    __slots__ = ("index", "passage", "file_id", "filename", "quote", "start", "end")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    PASSAGE_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    index: int
    passage: int
    file_id: str
    filename: str
    quote: str
    start: int
    end: int
    def __init__(self, index: _Optional[int] = ..., passage: _Optional[int] = ..., file_id: _Optional[str] = ..., filename: _Optional[str] = ..., quote: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("receipt", "usage", "finish_reason")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    receipt: Receipt
    usage: Usage
    finish_reason: FinishReason
    def __init__(self, receipt: _Optional[_Union[Receipt, _Mapping]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens", "total_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ..., total_tokens: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("id", "created", "outcome", "cause", "stage", "tier", "tier_reason", "cache", "embed_ms", "search_ms", "queue_ms", "ttft_ms", "total_ms", "passages", "usage", "finish_reason", "question", "question_reason", "conversation", "unsupported_citations", "hops", "degraded", "cache_similarity", "cache_agreement", "cache_age_s", "trace_id", "version", "preempted")
    ID_FIELD_NUMBER: _ClassVar[int]
    CREATED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    TIER_REASON_FIELD_NUMBER: _ClassVar[int]
    CACHE_FIELD_NUMBER: _ClassVar[int]
    EMBED_MS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    TTFT_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    QUESTION_REASON_FIELD_NUMBER: _ClassVar[int]
    CONVERSATION_FIELD_NUMBER: _ClassVar[int]
    UNSUPPORTED_CITATIONS_FIELD_NUMBER: _ClassVar[int]
    HOPS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    CACHE_SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    CACHE_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    CACHE_AGE_S_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PREEMPTED_FIELD_NUMBER: _ClassVar[int]
    id: str
    created: int
    outcome: Outcome
    cause: str
    stage: Stage
    tier: str
    tier_reason: str
    cache: str
    embed_ms: float
    search_ms: float
    queue_ms: float
    ttft_ms: float
    total_ms: float
    passages: _containers.RepeatedCompositeFieldContainer[ReceiptPassage]
    usage: Usage
    finish_reason: FinishReason
    question: str
    question_reason: str
    conversation: str
    unsupported_citations: int
    hops: int
    degraded: _containers.RepeatedScalarFieldContainer[str]
    cache_similarity: float
    cache_agreement: float
    cache_age_s: float
    trace_id: str
    version: str
    preempted: int
    def __init__(self, id: _Optional[str] = ..., created: _Optional[int] = ..., outcome: _Optional[_Union[Outcome, str]] = ..., cause: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., tier: _Optional[str] = ..., tier_reason: _Optional[str] = ..., cache: _Optional[str] = ..., embed_ms: _Optional[float] = ..., search_ms: _Optional[float] = ..., queue_ms: _Optional[float] = ..., ttft_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., passages: _Optional[_Iterable[_Union[ReceiptPassage, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., question: _Optional[str] = ..., question_reason: _Optional[str] = ..., conversation: _Optional[str] = ..., unsupported_citations: _Optional[int] = ..., hops: _Optional[int] = ..., degraded: _Optional[_Iterable[str]] = ..., cache_similarity: _Optional[float] = ..., cache_agreement: _Optional[float] = ..., cache_age_s: _Optional[float] = ..., trace_id: _Optional[str] = ..., version: _Optional[str] = ..., preempted: _Optional[int] = ...) -> None: ...

class ReceiptPassage(_message.Message):
    __slots__ = ("n", "collection_id", "file_id", "filename", "heading", "score", "start", "end", "text", "in_prompt", "cited", "page")
    N_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    HEADING_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IN_PROMPT_FIELD_NUMBER: _ClassVar[int]
    CITED_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    n: int
    collection_id: str
    file_id: str
    filename: str
    heading: str
    score: float
    start: int
    end: int
    text: str
    in_prompt: bool
    cited: bool
    page: int
    def __init__(self, n: _Optional[int] = ..., collection_id: _Optional[str] = ..., file_id: _Optional[str] = ..., filename: _Optional[str] = ..., heading: _Optional[str] = ..., score: _Optional[float] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., text: _Optional[str] = ..., in_prompt: _Optional[bool] = ..., cited: _Optional[bool] = ..., page: _Optional[int] = ...) -> None: ...

class RetrieveRequest(_message.Message):
    __slots__ = ("query", "collections", "top_k", "score_threshold", "filters")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    COLLECTIONS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    SCORE_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    query: str
    collections: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    score_threshold: float
    filters: str
    def __init__(self, query: _Optional[str] = ..., collections: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., score_threshold: _Optional[float] = ..., filters: _Optional[str] = ...) -> None: ...

class RetrieveResponse(_message.Message):
    __slots__ = ("passages", "embed_ms", "search_ms", "total_ms")
    PASSAGES_FIELD_NUMBER: _ClassVar[int]
    EMBED_MS_FIELD_NUMBER: _ClassVar[int]
    SEARCH_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    passages: _containers.RepeatedCompositeFieldContainer[Passage]
    embed_ms: float
    search_ms: float
    total_ms: float
    def __init__(self, passages: _Optional[_Iterable[_Union[Passage, _Mapping]]] = ..., embed_ms: _Optional[float] = ..., search_ms: _Optional[float] = ..., total_ms: _Optional[float] = ...) -> None: ...

class Passage(_message.Message):
    __slots__ = ("chunk_id", "collection_id", "file_id", "filename", "ordinal", "heading", "start", "end", "text", "score", "cosine", "lexical", "page", "chunk_ids")
    CHUNK_ID_FIELD_NUMBER: _ClassVar[int]
    COLLECTION_ID_FIELD_NUMBER: _ClassVar[int]
    FILE_ID_FIELD_NUMBER: _ClassVar[int]
    FILENAME_FIELD_NUMBER: _ClassVar[int]
    ORDINAL_FIELD_NUMBER: _ClassVar[int]
    HEADING_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    COSINE_FIELD_NUMBER: _ClassVar[int]
    LEXICAL_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_IDS_FIELD_NUMBER: _ClassVar[int]
    chunk_id: int
    collection_id: str
    file_id: str
    filename: str
    ordinal: int
    heading: str
    start: int
    end: int
    text: str
    score: float
    cosine: float
    lexical: float
    page: int
    chunk_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, chunk_id: _Optional[int] = ..., collection_id: _Optional[str] = ..., file_id: _Optional[str] = ..., filename: _Optional[str] = ..., ordinal: _Optional[int] = ..., heading: _Optional[str] = ..., start: _Optional[int] = ..., end: _Optional[int] = ..., text: _Optional[str] = ..., score: _Optional[float] = ..., cosine: _Optional[float] = ..., lexical: _Optional[float] = ..., page: _Optional[int] = ..., chunk_ids: _Optional[_Iterable[int]] = ...) -> None: ...
