"""POST /v1/chat/completions: OpenAI's shapes around the chat pipeline, streaming and not."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.collections import collection_ids
from gateway.api.decode import clean_text, json_body, read_body
from gateway.api.errors import to_response, to_tidegate
from gateway.api.schemas import ChatBody
from gateway.api.services import Services
from gateway.api.sse import DONE, EventStream
from gateway.chat import ChatRequest
from gateway.errors import ClientGone, InvalidRequest, Rejected, TidegateError
from gateway.lifecycle import State
from gateway.types import Citation, Passage, Receipt, Tenant

_BODY = msgspec.json.Decoder(ChatBody)
_json = msgspec.json.Encoder().encode
REQUEST_ID_HEADER = "x-request-id"


async def completions(request: Request, services: Services) -> HTTPResponse | None:
    """One question. Whatever ends it, it is counted once: here until it is a request, by the pipeline after."""
    received, request_id = time.monotonic(), f"chatcmpl-{secrets.token_hex(16)}"
    try:
        if services.lifecycle.state is not State.READY:
            raise Rejected(
                "The service is stopping; ask again in a moment.", code="draining", retry_after_s=2
            )
        tenant = await services.auth.tenant(request)
        await read_body(request, services.settings.max_body_bytes)
        body = json_body(request, _BODY)
        chat = await _validated(body, tenant, services, received, request_id)
    except (Exception, asyncio.CancelledError) as error:
        services.pipeline.refuse(request_id, received, error)
        raise
    with services.lifecycle:
        if body.stream:
            return await _stream(request, services, chat, body)
        return await _whole(services, chat)


async def _validated(
    body: ChatBody, tenant: Tenant, services: Services, received: float, request_id: str
) -> ChatRequest:
    """A pipeline request from the wire's. Raises: InvalidRequest, NotFound."""
    settings = services.settings
    if field := body.unsupported():
        raise InvalidRequest(
            f"{field} is not supported by this service.", code="unsupported_value", param=field
        )
    if len(body.messages) > settings.max_messages:
        raise InvalidRequest(
            f"messages has {len(body.messages)} entries; the limit is {settings.max_messages}.",
            code="too_many_messages",
            param="messages",
        )
    for index, message in enumerate(body.messages):
        clean_text(message.text(), f"messages[{index}].content", max_chars=settings.max_question_chars)
    question = next((m.text() for m in reversed(body.messages) if m.role == "user"), "").strip()
    if not question:
        raise InvalidRequest(
            "messages holds no user message with text.", code="no_question", param="messages"
        )
    extension = body.tidegate
    if extension.filters is not None:
        raise InvalidRequest(
            "tidegate.filters is not supported yet.", code="unsupported_value", param="tidegate.filters"
        )
    if extension.deadline_ms is not None and extension.deadline_ms <= 0:
        raise InvalidRequest(
            "tidegate.deadline_ms has passed already; it counts milliseconds from now.",
            code="deadline_expired",
            param="tidegate.deadline_ms",
        )
    services.pipeline.tiers.choose(
        body.model, question
    )  # an unknown model is told before anything else is done
    timeout_s = settings.request_timeout_s
    if extension.deadline_ms is not None:
        timeout_s = min(timeout_s, extension.deadline_ms / 1000)
    return ChatRequest(
        id=request_id,
        tenant=tenant,
        model=body.model,
        question=question,
        collections=await collection_ids(services, tenant, extension.collections),
        top_k=extension.top_k,
        priority=extension.priority,
        max_tokens=body.max_completion_tokens or body.max_tokens,
        received=received,
        deadline=received + timeout_s,
        has_own_deadline=timeout_s < settings.request_timeout_s,
        created=int(time.time()),
    )


class _Collector:
    """A sink that keeps the answer for a reply in one piece."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.annotations: list[dict[str, Any]] = []
        self._length = 0

    def chosen(self, tier: str) -> None:
        """Nobody watches."""

    async def stage(self, name: str) -> None:
        """Nobody watches."""

    def waiting(self, position: int, eta_s: float) -> None:
        """Nobody watches."""

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        self.parts.append(text)
        self._length += len(text)
        self.annotations += [_annotation(citation, passages, self._length) for citation in citations]


async def _whole(services: Services, chat: ChatRequest) -> HTTPResponse:
    sink = _Collector()
    try:
        receipt = await services.pipeline.run(chat, sink)
    except TidegateError as error:
        return _refusal(error, chat)
    message = {
        "role": "assistant",
        "content": "".join(sink.parts),
        "refusal": None,
        "annotations": sink.annotations,
    }
    reply = {
        "id": chat.id,
        "object": "chat.completion",
        "created": chat.created,
        "model": receipt.tier,
        "choices": [
            {"index": 0, "message": message, "finish_reason": _finish_reason(receipt), "logprobs": None}
        ],
        "usage": _usage(receipt),
        "tidegate": {"receipt": receipt},
    }
    return HTTPResponse(_json(reply), content_type="application/json", headers={REQUEST_ID_HEADER: chat.id})


def _refusal(error: TidegateError, chat: ChatRequest) -> HTTPResponse:
    """An error before the first byte, with the id by which its receipt is found."""
    response = to_response(error)
    response.headers[REQUEST_ID_HEADER] = chat.id
    return response


class _StreamSink:
    """A sink that writes chunks as they come. The constant part of a chunk is encoded once per request."""

    def __init__(self, stream: EventStream, chat: ChatRequest, *, events: bool) -> None:
        self._stream = stream
        self._chat = chat
        self._events = events
        self._head = b""
        self._length = 0

    def chosen(self, tier: str) -> None:
        chat = self._chat
        head = {"id": chat.id, "object": "chat.completion.chunk", "created": chat.created, "model": tier}
        self._head = _json(head)[:-1]

    def chunk(self, rest: bytes) -> bytes:
        """One chunk object: the constant head and `rest`, which begins with a comma."""
        return self._head + rest + b"}"

    def extension(self, value: object) -> bytes:
        return self.chunk(b',"choices":[],"tidegate":' + _json(value))

    async def stage(self, name: str) -> None:
        if self._events:
            self._stream.notice(self.extension({"stage": name}))

    def waiting(self, position: int, eta_s: float) -> None:
        if self._events:
            self._stream.notice(self.extension({"queue": {"position": position, "eta_s": eta_s}}))

    async def delta(self, text: str, citations: list[Citation], passages: list[Passage]) -> None:
        role = b"" if self._length else b'"role":"assistant",'
        self._length += len(text)
        notes = b""
        if citations:
            notes = b',"annotations":' + _json(
                [_annotation(each, passages, self._length) for each in citations]
            )
        await self._stream.send(
            self.chunk(
                b',"choices":[{"index":0,"delta":{%b"content":%b%b},"finish_reason":null}]'
                % (role, _json(text), notes)
            )
        )

    def last(self, receipt: Receipt, *, include_usage: bool) -> bytes:
        """The closing frames: finish reason, usage with the receipt, [DONE].

        A chunk without choices comes only if usage was asked for: plain clients read choices[0] of every chunk.
        """
        stop = b',"choices":[{"index":0,"delta":{},"finish_reason":%b}]' % _json(_finish_reason(receipt))
        tail = b',"usage":' + _json(_usage(receipt)) + b',"tidegate":' + _json({"receipt": receipt})
        if not include_usage:
            return self._stream.event(self.chunk(stop + tail)) + DONE
        end = self.chunk(b',"choices":[]' + tail)
        return self._stream.event(self.chunk(stop)) + self._stream.event(end) + DONE


async def _stream(
    request: Request, services: Services, chat: ChatRequest, body: ChatBody
) -> HTTPResponse | None:
    stream = EventStream(
        request, chat.id, keepalive_s=services.settings.keepalive_s, headers={REQUEST_ID_HEADER: chat.id}
    )
    async with stream:
        sink = _StreamSink(stream, chat, events=body.tidegate.events)
        try:
            receipt = await services.pipeline.run(chat, sink)
            wants_usage = body.stream_options is not None and body.stream_options.include_usage
            await stream.write(sink.last(receipt, include_usage=wants_usage))
        except ClientGone:
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001  the edge: to_tidegate logs what is not ours
            ours = to_tidegate(error)
            if not stream.started:
                return _refusal(ours, chat)
            await stream.fail(ours)
        await stream.close()
    return None


def _annotation(citation: Citation, passages: list[Passage], index: int) -> dict[str, Any]:
    """An OpenAI annotation for one quoted sentence. index: characters of the answer up to and with its [n]."""
    passage = passages[citation.passage - 1]
    return {
        "type": "file_citation",
        "file_citation": {
            "file_id": passage.file_id,
            "filename": passage.filename,
            "index": index,
            "passage": citation.passage,
            "quote": citation.text,
            "start": citation.start,
            "end": citation.end,
        },
    }


def _finish_reason(receipt: Receipt) -> str:
    """OpenAI knows no `no_answer`: for its clients an honest no is an ordinary stop."""
    return "length" if receipt.finish_reason == "length" else "stop"


def _usage(receipt: Receipt) -> dict[str, int]:
    used = receipt.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
