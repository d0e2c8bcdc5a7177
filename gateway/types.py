"""The nouns that travel between layers. Plain data, no I/O, no behaviour beyond small derivations."""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

from gateway.filters import Filter

DEFAULT_EMBEDDER = "all-MiniLM-L6-v2"  # its name in the API


class Outcome(enum.StrEnum):
    """How a request ended: exactly one each. Also the metric label and the log field."""

    COMPLETED = "completed"
    CACHED = "cached"
    REJECTED = "rejected"  # before the queue
    EVICTED = "evicted"  # after it: deadline, displaced, client_gone
    FAILED = "failed"


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a tenant or a key may use. None = not set; 0 = unlimited.

    Minutes slide; a month is a calendar month in UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None  # of prompts and answers together, like monthly_tokens
    concurrent_streams: int | None = None
    monthly_tokens: int | None = None

    def over(self, defaults: Limits) -> Limits:
        """These, and the defaults where nothing is set."""
        return Limits(
            **{
                name: getattr(defaults if getattr(self, name) is None else self, name)
                for name in self.__struct_fields__
            }
        )

    @property
    def is_unlimited(self) -> bool:
        return not (
            self.requests_per_minute
            or self.tokens_per_minute
            or self.concurrent_streams
            or self.monthly_tokens
        )


class Tenant(msgspec.Struct, frozen=True):
    """Who calls: the tenant and the key it came by (empty = anonymous development access), each with its limits.

    tiers: that it may ask for; empty = all. floor: the last step of the ladder that its answers may be taken down to
    under load; empty = any, `none` = no step at all.
    """

    tenant_id: str
    key_id: str = ""
    is_admin: bool = False
    limits: Limits = Limits()
    key_limits: Limits = Limits()
    tiers: tuple[str, ...] = ()
    floor: str = ""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A retrieved chunk, or several neighbours merged into one passage, with its scores.

    start, end: characters into the stored text of the file; text == stored[start:end], but that white
    space between the chunks of a merged passage may be of another kind. chunk_id, ordinal: the chunk
    that matched best; chunk_ids: all that the passage holds, in reading order. page: 1-based, of `start`;
    0 = the format has no pages. A list of passages is in the order of rank_score, best first.
    """

    chunk_id: int
    collection_id: str
    file_id: str
    filename: str
    ordinal: int
    heading: str
    start: int
    end: int
    text: str
    page: int = 0
    chunk_ids: list[int] = []
    lexical: float = 0.0  # BM25 of the best chunk, >= 0, no upper bound; 0 = no word in common
    rank_score: float = 0.0  # what the order follows, 0..1
    score: float  # cosine of the best chunk with the question, -1..1


class Scope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a search may see. `collections` empty = all of the tenant's.

    embedder: the model that made the embedding; vectors of other models are never compared with it. ranking: which
    evidence orders the passages. rerank: whether the sentences of the best ones are read to put them in order.
    """

    tenant_id: str
    collections: list[str] = []
    k: int = 5
    filters: Filter | None = None
    ranking: Literal["hybrid", "dense", "lexical"] = "hybrid"
    embedder: str = DEFAULT_EMBEDDER
    rerank: bool = True


class Citation(msgspec.Struct, frozen=True, kw_only=True):
    """A sentence of the answer and where it stands. `passage` is the 1-based number in `[n]`.

    start and end: characters into the file's stored text. text: the quoted sentence.
    """

    passage: int
    start: int
    end: int
    text: str


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation. role: system, user or assistant.

    question: of a user's message, what was searched for in its place; empty = the text, or not known.
    """

    role: str
    text: str
    question: str = ""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How tokens are chosen and when they end. None = the tier's own default; temperature 0 = greedy.

    seed: 0..2**63-1. stop: texts that end the answer and are not part of it. json_schema: what the answer must hold to,
    as JSON; empty = it is text with citations.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    json_schema: str = ""


class Inquiry(msgspec.Struct, frozen=True, kw_only=True):
    """What a tier is asked: the question, what was said before it (oldest first), how to choose the words.

    meant: a follow-up as it stands alone, where `question` is as it was written; empty = the question stands alone.
    parts: the questions that make up one of several parts; a tier that quotes answers each.
    is_short: one sentence, or one for each part, will do.
    pin: the same number for all of a conversation, which stays on one version of a model by it; None = no matter.
    priority: 0 comes first, larger ones give way, in an engine that has priorities.
    without_documents: asked for without passages to stand on; else a tier writes nothing where none were found.
    ids, said: of an answer that another worker began, its tokens (little-endian INT32) and what they say; the tier goes
    on after them, and gives all of the answer. Tiers that keep no tokens begin anew, but for those that can go on from
    what was said. num_said: tokens that it was counted as.
    """

    question: str
    meant: str = ""
    parts: list[str] = []
    is_short: bool = False
    history: list[Turn] = []
    sampling: Sampling = Sampling()
    pin: int | None = None
    priority: int = 0
    without_documents: bool = False
    ids: bytes = b""
    said: str = ""
    num_said: int = 0


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an answer as the engine gives it. ids, said: what it was made of, where the tier can go on from there
    (Inquiry). version: of the model that made all of it, with the last step, where the model has a version by name."""

    text: str = ""
    citations: list[Citation] = []
    finish_reason: str = ""  # "" while running; stop, length, no_answer
    num_input_tokens: int = 0
    num_output_tokens: int = 0  # so far
    num_passages: int = -1  # of the retrieved ones, how many the tier had room for; -1 = not said
    num_unsupported: int = 0  # [n] marks taken out since the delta before
    version: str = ""
    ids: bytes = b""
    said: str = ""


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Receipt(msgspec.Struct, kw_only=True):
    """What happened to one request, and why. Times are milliseconds; -1 = that stage was not reached."""

    id: str
    created: int
    outcome: Outcome
    cause: str = ""  # error code, or empty
    stage: str = "received"  # the last one reached: received, retrieving, queued, generating, done
    tier: str = ""
    tier_reason: str = ""
    cache: str = "off"  # exact, semantic, joined, neighbour, miss, refresh or off
    embed_ms: float = -1.0
    search_ms: float = -1.0
    queue_ms: float = -1.0
    ttft_ms: float = -1.0
    total_ms: float = -1.0
    passages: list[dict[str, Any]] = []
    usage: Usage = Usage()
    finish_reason: str = ""
    question: str = (
        ""  # what was searched for, where it is not what was written: a follow-up that was completed
    )
    question_reason: str = ""
    conversation: str = ""  # the stored one that the request belongs to
    unsupported_citations: int = 0  # [n] marks that no passage bears out, taken out of the answer
    hops: int = 0  # searches that were made for the question
    degraded: list[str] = []  # steps of the ladder that changed this answer, in the ladder's order
    cache_similarity: float = -1.0  # of the remembered question and this one, 0..1; -1 = none
    cache_agreement: float = -1.0  # share of the evidence that is the same as then; -1 = not looked for again
    cache_age_s: float = -1.0  # of the remembered answer
    trace_id: str = ""  # of the trace that is kept of the request; empty = none is
    version: str = (
        ""  # of the model that wrote the answer, as its rollout names it; empty = none, or more than one
    )
    preempted: int = 0  # times that its slot was given to somebody else, and its answer went on later
