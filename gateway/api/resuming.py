"""Streams that one worker began and another ends: what is left at the end of a drain, and `Last-Event-ID`.

A client whose stream ended with `draining` and a `last_event_id` sends the same request again with that header, to
whichever worker it meets, and gets what it does not have yet.
"""

from __future__ import annotations

import re

import msgspec

from gateway.api.services import Services
from gateway.api.validation import stopping
from gateway.chat import ChatRequest
from gateway.errors import Conflict, InvalidRequest, NotFound, Rejected
from gateway.pipeline.handover import Earlier, Left, Trail, decode, digest
from gateway.storage.handovers import KEPT_S

HEADER = "last-event-id"
CACHE_HEADER = "x-tidegate-cache"  # what the receipt says of it
_EVENT_ID = re.compile(r"(chatcmpl-[0-9a-f]{32})\.(\d{1,9})")


def event_id(header: str | None, *, is_stream: bool) -> tuple[str, int] | None:
    """The stream and the number of its event that a request names. Raises: InvalidRequest."""
    if header is None:
        return None
    found = _EVENT_ID.fullmatch(header.strip())
    if found is None:
        raise InvalidRequest(
            "Last-Event-ID is no id of an event of this service.", code="invalid_last_event_id", param=HEADER
        )
    if not is_stream:
        raise InvalidRequest("Last-Event-ID goes with `stream: true` alone.", param="stream")
    return found[1], int(found[2])


async def going_on(services: Services, chat: ChatRequest, event: tuple[str, int] | None) -> ChatRequest:
    """The request as it goes on with what was left of the stream, if it does.

    Raises: NotFound, Conflict, UpstreamUnavailable.
    """
    if event is None:
        return chat
    earlier = await _earlier(services, chat, event)
    left = earlier.left
    return msgspec.structs.replace(
        chat,
        model=left.tier or chat.model,
        created=left.created,
        ticket=left.ticket or chat.ticket,
        earlier=earlier,
        trail=Trail(earlier),
    )


async def _earlier(services: Services, chat: ChatRequest, event: tuple[str, int]) -> Earlier:
    stream_id, number = event
    body = await services.handovers.find(chat.tenant.tenant_id, stream_id)
    if body is None:
        raise NotFound(
            f"Nothing is left of that stream to go on with (it is kept for {KEPT_S} s, of streams that a worker had to "
            "leave). Ask again without Last-Event-ID.",
            code="stream_not_found",
            param=HEADER,
        )
    left: Left = decode(body)
    if left.asked != digest(chat):
        raise Conflict(
            "Last-Event-ID names the stream of another request; send the one that began it.",
            code="stream_mismatch",
            param=HEADER,
        )
    return left.after(stream_id, number)


def refused(chat: ChatRequest) -> Rejected:
    """What is told to a client that has nothing yet: to come again, with its place in line if it had one."""
    error = stopping()
    error.ticket = chat.trail.ticket() if chat.trail is not None else ""
    return error


async def leave(services: Services, chat: ChatRequest, last_event: int) -> Rejected:
    """Keep what there is for another worker. Returns what the client is told, last_event: the number of its event."""
    error = refused(chat)
    if chat.trail is not None:
        body = chat.trail.left(chat).encoded()
        if await services.handovers.keep(chat.tenant.tenant_id, chat.id, body):
            error.last_event_id = f"{chat.id}.{last_event}"
            services.metrics.handed_over.inc()
    return error


def cache_headers(chat: ChatRequest) -> dict[str, str]:
    """What the answer cache did, as soon as that is known: with the first text."""
    receipt = chat.trail.receipt if chat.trail is not None else None
    return {CACHE_HEADER: receipt.cache} if receipt is not None and receipt.ttft_ms >= 0 else {}
