"""POST /v1/chat/completions: OpenAI's shapes around the chat pipeline, streaming and not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import NamedTuple

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.answers import Transcript, annotation, completion, finish_reason, usage
from gateway.api.auth import http_caller
from gateway.api.collections import collection_ids
from gateway.api.decode import check_says_json, decode, read_body, release
from gateway.api.errors import to_response, to_tidegate
from gateway.api.limits import headers_for
from gateway.api.memory import is_kept, keep
from gateway.api.repeats import Repeats
from gateway.api.reply import Reply
from gateway.api.resuming import CACHE_HEADER, cache_headers, event_id, going_on, leave, refused
from gateway.api.resuming import HEADER as EVENT_HEADER
from gateway.api.schemas import ChatBody
from gateway.api.services import Services
from gateway.api.sse import DONE, EventStream
from gateway.api.validation import chat_request, check_takes_work, go_on_if_stopping
from gateway.chat import ChatRequest
from gateway.errors import ClientGone, TidegateError
from gateway.pipeline.handover import AfterEarlier, Trail
from gateway.shown import ready_to_encode
from gateway.types import Citation, Passage, Receipt, Tenant

_BODY = msgspec.json.Decoder(ChatBody)
_json = msgspec.json.Encoder().encode
REQUEST_ID_HEADER = "x-request-id"
GOODBYE_S = 0.3  # for a reader to take the last event of a stream that is cut off


async def completions(request: Request, services: Services) -> HTTPResponse | None:
    """One question. Whatever ends it, it is counted once: here until it is a request, by the pipeline after."""
    received, request_id = time.monotonic(), services.request_ids.next()
    try:
        check_takes_work(services)
        tenant = await services.auth.tenant(http_caller(request))
        await read_body(request, services.settings.max_body_bytes)
        chat, wants = await _asked(request, services, tenant, received, request_id)
        event = event_id(request.headers.get(EVENT_HEADER), is_stream=wants.stream)
        chat = await going_on(services, chat, event)
        release(request)
    except (Exception, asyncio.CancelledError) as error:
        services.pipeline.refuse(request_id, received, error)
        raise
    with services.lifecycle:
        if wants.stream:
            return await _stream(request, services, chat, wants)
        return await _whole(services, chat, wants.kept)


class _Wants(NamedTuple):
    """Of a request, what its answer goes by. kept: the body, where anything of it is to stay."""

    stream: bool
    events: bool
    usage: bool
    kept: ChatBody | None

    @classmethod
    def of(cls, chat: ChatRequest, body: ChatBody) -> _Wants:
        options = body.stream_options
        return cls(
            stream=bool(body.stream),
            events=body.tidegate.events,
            usage=options is not None and bool(options.include_usage),
            kept=body if is_kept(chat, body) else None,
        )


class _Asked(NamedTuple):
    """What a body means, whenever it is said. collections: as they were named. patience_s: until its deadline."""

    chat: ChatRequest
    wants: _Wants
    collections: list[str]
    patience_s: float

    async def now(self, services: Services, received: float, request_id: str) -> ChatRequest:
        """The request, said at `received`. Raises: NotFound."""
        chat = self.chat
        return msgspec.structs.replace(
            chat,
            id=request_id,
            collections=await collection_ids(services, chat.tenant, self.collections),
            received=received,
            deadline=received + self.patience_s,
            created=int(time.time()),
            trail=Trail(),
        )


async def _asked(
    request: Request, services: Services, tenant: Tenant, received: float, request_id: str
) -> tuple[ChatRequest, _Wants]:
    """Raises: UnsupportedMediaType, InvalidRequest, NotFound."""
    check_says_json(request)
    repeats: Repeats[_Asked] = services.repeats
    before = repeats.find(tenant, request.body)
    if before is not None:
        return await before.now(services, received, request_id), before.wants
    body = decode(request.body, _BODY)
    chat = await chat_request(body, tenant, services, received=received, request_id=request_id)
    wants = _Wants.of(chat, body)
    if wants.kept is None:
        meant = msgspec.structs.replace(chat, trail=None)
        named = body.tidegate.collections or []
        repeats.keep(tenant, request.body, _Asked(meant, wants, named, chat.deadline - received))
    return chat, wants


async def _whole(services: Services, chat: ChatRequest, body: ChatBody | None) -> HTTPResponse:
    """body: where anything of it is to stay."""
    answer = Transcript()
    try:
        receipt = await services.pipeline.run(chat, answer)
        if body is not None:
            await keep(services, chat, body, receipt, answer)
    except TidegateError as error:
        return _refusal(error, services, chat)
    except asyncio.CancelledError:
        go_on_if_stopping(services)
        return _refusal(refused(chat), services, chat)
    reply = _json(completion(chat, receipt, answer))
    headers = {REQUEST_ID_HEADER: chat.id, CACHE_HEADER: receipt.cache, **headers_for(services, chat.tenant)}
    return Reply(reply, content_type="application/json", headers=headers)


def _refusal(error: TidegateError, services: Services, chat: ChatRequest) -> HTTPResponse:
    """An error before the first byte, with the id by which its receipt is found."""
    response = to_response(error)
    response.headers[REQUEST_ID_HEADER] = chat.id
    response.headers.update(headers_for(services, chat.tenant))
    return response


class _StreamSink:
    """A sink that writes chunks as they come. The constant part of a chunk is encoded once per request."""

    def __init__(self, stream: EventStream, chat: ChatRequest, *, events: bool) -> None:
        self._stream = stream
        self._chat = chat
        self._events = events
        self._head = b""
        self._trail = chat.trail or Trail()
        self._length = self._trail.num_chars

    def chosen(self, tier: str) -> None:
        self._trail.chosen(tier)
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
                [annotation(each, passages, self._length) for each in citations]
            )
        self._trail.sent(self._stream.last_id + 1, text, len(citations))
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
        stop = b',"choices":[{"index":0,"delta":{},"finish_reason":%b}]' % _json(finish_reason(receipt))
        tail = (
            b',"usage":'
            + _json(usage(receipt))
            + b',"tidegate":'
            + _json({"receipt": ready_to_encode(receipt)})
        )
        if not include_usage:
            return self._stream.event(self.chunk(stop + tail)) + DONE
        end = self.chunk(b',"choices":[]' + tail)
        return self._stream.event(self.chunk(stop)) + self._stream.event(end) + DONE


async def _stream(
    request: Request, services: Services, chat: ChatRequest, wants: _Wants
) -> HTTPResponse | None:
    settings = services.settings
    stream = EventStream(
        request,
        chat.id,
        keepalive_s=settings.keepalive_s,
        max_stall_s=settings.slow_reader_s,
        metrics=services.metrics,
        head=lambda: {
            REQUEST_ID_HEADER: chat.id,
            **headers_for(services, chat.tenant),
            **cache_headers(chat),
        },
        num_open=lambda: services.lifecycle.inflight,
    )
    async with stream:
        sink = _StreamSink(stream, chat, events=wants.events)
        rest = AfterEarlier(sink, chat.earlier) if chat.earlier else None
        answer = None if wants.kept is None else Transcript(rest or sink)
        try:
            receipt = await services.pipeline.run(chat, answer or rest or sink)
            if rest is not None:
                rest.check_whole()
            if wants.kept is not None and answer is not None:
                await keep(services, chat, wants.kept, receipt, answer)
            await stream.write(sink.last(receipt, include_usage=wants.usage), is_last=True)
        except ClientGone:
            raise asyncio.CancelledError from None
        except asyncio.CancelledError:
            go_on_if_stopping(services)
            if not stream.started:
                return _refusal(refused(chat), services, chat)
            error = await leave(services, chat, await stream.settle(GOODBYE_S))
            with contextlib.suppress(ClientGone, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await stream.fail(error)
        except Exception as error:  # noqa: BLE001  the edge: to_tidegate logs what is not ours
            ours = to_tidegate(error)
            if not stream.started:
                return _refusal(ours, services, chat)
            await stream.fail(ours)
    return None
