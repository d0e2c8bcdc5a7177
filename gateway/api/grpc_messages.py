"""The messages of chat.proto: requests to the structs that HTTP decodes into, results to messages.

Requests become plain fields first and then a struct of `schemas`, so that every limit, code and sentence is that of
the HTTP API.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from google.protobuf.message import DecodeError, Message

from gateway.api.decode import convert, decode
from gateway.api.schemas import ChatBody, ResponseFormat, RetrieveBody
from gateway.api.validation import too_many_messages
from gateway.errors import InvalidRequest
from gateway.filters import Filter
from gateway.ports import Retrieved
from gateway.proto import chat_pb2 as pb
from gateway.types import Citation, Passage, Receipt

M = TypeVar("M", bound=Message)
T = TypeVar("T")
_FILTER = msgspec.json.Decoder(Filter)
_RESPONSE_FORMAT: msgspec.json.Decoder[ResponseFormat] = msgspec.json.Decoder(ResponseFormat)
MAX_OTHER_FIELDS = 256  # entries of a request beside its messages; more than all limits together allow
MAX_DEADLINE_MS = 86_400_000
_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types; groups are long gone from the format
_MESSAGES_FIELD = pb.ChatRequest.DESCRIPTOR.fields_by_name["messages"].number
_OPTIONAL = ("max_tokens", "temperature", "top_p", "seed")


def _names(enum: Any, prefix: str) -> dict[int, str]:
    """Number -> our word. The unspecified value has none."""
    return {number: name.removeprefix(prefix).lower() for name, number in enum.items() if number}


def _numbers(enum: Any, prefix: str) -> dict[str, Any]:
    return {word: number for number, word in _names(enum, prefix).items()}


ROLES = _names(pb.Role, "ROLE_")
PRIORITIES = _names(pb.Priority, "PRIORITY_")
CACHE_USES = _names(pb.CacheUse, "CACHE_USE_")
STAGES = _numbers(pb.Stage, "STAGE_")
OUTCOMES = _numbers(pb.Outcome, "OUTCOME_")
FINISH_REASONS = _numbers(pb.FinishReason, "FINISH_REASON_")


def chat_body(data: bytes, *, max_messages: int, deadline_s: float | None) -> ChatBody:
    """A `ChatRequest` off the wire. deadline_s: what is left of the call's time. Raises: InvalidRequest."""
    check_size(data, max_messages)
    request = _parse(data, pb.ChatRequest)
    extension: dict[str, Any] = {"collections": list(request.collections) or None, "events": request.events}
    if request.HasField("top_k"):
        extension["top_k"] = request.top_k
    if request.priority:
        extension["priority"] = _word(PRIORITIES, request.priority)
    if request.filters:
        extension["filters"] = _in_json("filters", request.filters, _FILTER)
    if request.ticket:
        extension["ticket"] = request.ticket
    if request.without_documents:
        extension["retrieval"] = "off"
    if request.conversation:
        extension["conversation"] = request.conversation
    if request.cache:
        extension["cache"] = _word(CACHE_USES, request.cache)
    if deadline_s is not None:
        extension["deadline_ms"] = min(max(1, int(deadline_s * 1000)), MAX_DEADLINE_MS)
    fields = {
        "model": request.model,
        "messages": [_message(each) for each in request.messages],
        "stop": list(request.stop),
        "store": request.store,
        "metadata": dict(request.metadata),
        "tidegate": extension,
    }
    if request.response_format:
        fields["response_format"] = _in_json("response_format", request.response_format, _RESPONSE_FORMAT)
    fields |= {name: getattr(request, name) for name in _OPTIONAL if request.HasField(name)}
    return convert(fields, ChatBody)


def retrieve_body(data: bytes) -> RetrieveBody:
    """A `RetrieveRequest` off the wire. Raises: InvalidRequest."""
    check_size(data, max_messages=0)
    request = _parse(data, pb.RetrieveRequest)
    fields: dict[str, Any] = {"query": request.query, "collections": list(request.collections)}
    if request.filters:
        fields["filters"] = _in_json("filters", request.filters, _FILTER)
    fields |= {
        name: getattr(request, name) for name in ("top_k", "score_threshold") if request.HasField(name)
    }
    return convert(fields, RetrieveBody)


def _in_json(name: str, text: str, decoder: msgspec.json.Decoder[T]) -> T:
    """A field whose text is the JSON of the HTTP API. Raises: InvalidRequest that names the place inside it."""
    try:
        return decode(text.encode(), decoder)
    except InvalidRequest as error:
        place = f"{name}.{error.param}" if error.param else name
        raise InvalidRequest(f"{name}: {error.message}", code=error.code, param=place) from None


def check_size(data: bytes, max_messages: int) -> None:
    """Count a request's entries before they become objects: two bytes on the wire are fifty in memory.

    Raises: InvalidRequest (`too_many_messages`, or `invalid_protobuf` for what is no message at all).
    """
    at, num_messages, num_others = 0, 0, 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag >> 3 == _MESSAGES_FIELD and max_messages:
            num_messages += 1
        else:
            num_others += 1
        if num_messages > max_messages:
            raise too_many_messages(max_messages)
        if num_others > MAX_OTHER_FIELDS:
            raise _malformed(f"it has more than {MAX_OTHER_FIELDS} entries beside its messages")
        at = _skip(data, at, tag & 7)
    if at > len(data):
        raise _malformed("it is cut off")


def _skip(data: bytes, at: int, wire_type: int) -> int:
    """Where the next field begins; past the end when this one is cut off."""
    if wire_type == _VARINT:
        return _varint(data, at)[1]
    if wire_type == _BYTES:
        length, at = _varint(data, at)
        return at + length
    if wire_type in {_FIXED64, _FIXED32}:
        return at + (8 if wire_type == _FIXED64 else 4)
    raise _malformed(f"it holds the unknown wire type {wire_type}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[at : at + _VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, at + shift + 1
    raise _malformed("it is cut off")


def _malformed(why: str) -> InvalidRequest:
    return InvalidRequest(f"The message is not valid protobuf: {why}.", code="invalid_protobuf")


def _parse(data: bytes, kind: type[M]) -> M:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        if "UTF-8" in str(error):
            raise _malformed("a text in it is not UTF-8") from None
        raise _malformed(f"it is no {kind.DESCRIPTOR.full_name}") from None


def _word(names: dict[int, str], number: int) -> str:
    """An unknown number stays one: the struct refuses it by its place."""
    return names.get(number, str(number))


def _message(message: Any) -> dict[str, str]:
    if not message.role:  # left out, so that the struct misses it
        return {"content": message.content}
    return {"role": _word(ROLES, message.role), "content": message.content}


def stage_event(name: str) -> bytes:
    return _encode(pb.ChatEvent(stage=pb.StageEvent(stage=STAGES.get(name))))


def queue_event(position: int, eta_s: float) -> bytes:
    return _encode(pb.ChatEvent(queue=pb.QueueEvent(position=position, eta_s=eta_s)))


def delta_event(text: str, citations: list[Any]) -> bytes:
    return _encode(pb.ChatEvent(delta=pb.Delta(text=text, citations=citations)))


def done_event(receipt: Receipt) -> bytes:
    usage = _usage(receipt)
    reason = FINISH_REASONS.get(receipt.finish_reason)
    return _encode(
        pb.ChatEvent(done=pb.Done(receipt=receipt_message(receipt), usage=usage, finish_reason=reason))
    )


def citation_message(citation: Citation, passages: list[Passage], index: int) -> Any:
    """index: characters of the answer up to and with the sentence's [n]."""
    passage = passages[citation.passage - 1]
    return pb.Citation(
        index=index,
        passage=citation.passage,
        file_id=passage.file_id,
        filename=passage.filename,
        quote=citation.text,
        start=citation.start,
        end=citation.end,
    )


def receipt_message(receipt: Receipt) -> Any:
    return pb.Receipt(
        id=receipt.id,
        created=receipt.created,
        outcome=OUTCOMES.get(receipt.outcome.value),
        cause=receipt.cause,
        stage=STAGES.get(receipt.stage),
        tier=receipt.tier,
        tier_reason=receipt.tier_reason,
        cache=receipt.cache,
        embed_ms=_reached(receipt.embed_ms),
        search_ms=_reached(receipt.search_ms),
        queue_ms=_reached(receipt.queue_ms),
        ttft_ms=_reached(receipt.ttft_ms),
        total_ms=_reached(receipt.total_ms),
        passages=[pb.ReceiptPassage(**passage) for passage in receipt.passages],
        usage=_usage(receipt),
        finish_reason=FINISH_REASONS.get(receipt.finish_reason),
        question=receipt.question,
        question_reason=receipt.question_reason,
        conversation=receipt.conversation,
        unsupported_citations=receipt.unsupported_citations,
        hops=receipt.hops,
        degraded=receipt.degraded,
        cache_similarity=_reached(receipt.cache_similarity),
        cache_agreement=_reached(receipt.cache_agreement),
        cache_age_s=_reached(receipt.cache_age_s),
        trace_id=receipt.trace_id,
        version=receipt.version,
        preempted=receipt.preempted,
    )


def retrieve_response(found: Retrieved, threshold: float, total_ms: float) -> bytes:
    return _encode(
        pb.RetrieveResponse(
            passages=[_passage(each) for each in found.passages if each.rank_score >= threshold],
            embed_ms=found.embed_ms,
            search_ms=found.search_ms,
            total_ms=total_ms,
        )
    )


def _passage(passage: Passage) -> Any:
    return pb.Passage(
        chunk_id=passage.chunk_id,
        collection_id=passage.collection_id,
        file_id=passage.file_id,
        filename=passage.filename,
        ordinal=passage.ordinal,
        heading=passage.heading,
        start=passage.start,
        end=passage.end,
        text=passage.text,
        score=passage.rank_score,
        cosine=passage.score,
        lexical=passage.lexical,
        page=passage.page,
        chunk_ids=passage.chunk_ids,
    )


def _usage(receipt: Receipt) -> Any:
    used = receipt.usage
    return pb.Usage(
        prompt_tokens=used.prompt_tokens,
        completion_tokens=used.completion_tokens,
        total_tokens=used.prompt_tokens + used.completion_tokens,
    )


def _reached(time_ms: float) -> float | None:
    return time_ms if time_ms >= 0 else None


def _encode(message: Message) -> bytes:
    return message.SerializeToString()
