"""Questions over gRPC: the stream of `Chat` as the chunks that the HTTP API sends, every failure as one sentence.

Refuses to know commands and their output.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import grpc
import httpx
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.cli.client import (
    CONNECT_TIMEOUT_S,
    ApiError,
    Target,
    explain_answer,
    explain_failure,
    is_loopback,
)
from gateway.cli.terminal import CommandFailed
from gateway.proto import chat_pb2 as pb

_CHAT = "/tidegate.v1.ChatService/Chat"
_NOT_REACHED_MS = -1.0  # a time that the HTTP API shows for a part that was not reached
_KEEPALIVE = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000))


async def chat(
    target: Target, *, question: str, model: str, collections: list[str], conversation: str = ""
) -> AsyncIterator[dict[str, Any]]:
    """The events of one question, each in the HTTP API's shape. Leaving the iterator cancels the work.

    Raises: CommandFailed (ApiError when the service said no).
    """
    request = pb.ChatRequest(
        model=model,
        messages=[pb.Message(role=pb.ROLE_USER, content=question)],
        collections=collections,
        conversation=conversation,
        events=True,
    )
    async with _channel(target) as channel:
        await _connect(channel, target.url)
        metadata = (("authorization", f"Bearer {target.key}"),) if target.key else ()
        call = channel.unary_stream(_CHAT, pb.ChatRequest.SerializeToString, pb.ChatEvent.FromString)(
            request, metadata=metadata
        )
        has_begun = False
        try:
            async for event in call:
                has_begun = has_begun or event.HasField("delta")
                yield chunk(event)
        except grpc.aio.AioRpcError as error:
            raise explain_status(target.url, error, has_begun=has_begun) from error
        finally:
            call.cancel()


def _channel(target: Target) -> grpc.aio.Channel:
    parts = urlsplit(target.url)
    host = parts.hostname or ""
    address = f"[{host}]" if ":" in host else host
    is_secure = parts.scheme == "https"
    address += f":{parts.port or (443 if is_secure else 80)}"
    is_near = target.is_direct or is_loopback(host)  # a proxy cannot reach our loopback
    options = (*_KEEPALIVE, ("grpc.enable_http_proxy", int(not is_near)))
    if is_secure:
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)


async def _connect(channel: grpc.aio.Channel, url: str) -> None:
    """Fail at the first refusal: the library would try again for as long as the call may take."""
    waiting = (grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            while (state := channel.get_state(try_to_connect=True)) in waiting:
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise explain_failure(url, httpx.ConnectTimeout("")) from None
    if state is not grpc.ChannelConnectivity.READY:
        raise explain_failure(url, httpx.ConnectError(""))


def explain_status(url: str, error: grpc.aio.AioRpcError, *, has_begun: bool) -> CommandFailed:
    """The sentence that the same error over HTTP has. has_begun: some of the answer has come."""
    ours = _ours(url, error, has_begun=has_begun)
    if ours is not None:
        return ours
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNKNOWN}:
        return explain_failure(url, httpx.ReadError(""))
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return CommandFailed(f"{url} is not a tidegate: it does not know {_CHAT}.")
    return CommandFailed(f"The call to {url} failed: {error.code().name}.")


def _ours(url: str, error: grpc.aio.AioRpcError, *, has_begun: bool) -> ApiError | None:
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # details that contradict the status: somebody else's
        return None
    if status is None:
        return None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    headers: dict[str, str] = {}
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry) and not has_begun:
            delay_s = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
            headers["retry-after"] = str(max(1, math.ceil(delay_s)))
    body = {"error": {"message": status.message, "code": info.reason}}
    is_key = error.code() is grpc.StatusCode.UNAUTHENTICATED
    return explain_answer(url, 401 if is_key else 0, headers, json.dumps(body).encode())


def chunk(event: Any) -> dict[str, Any]:
    """One event as the chunk that HTTP sends for it."""
    match event.WhichOneof("event"):
        case "stage":
            return {"tidegate": {"stage": plain(event.stage)["stage"]}}
        case "queue":
            return {"tidegate": {"queue": plain(event.queue)}}
        case "delta":
            notes = [
                {"type": "file_citation", "file_citation": plain(citation)}
                for citation in event.delta.citations
            ]
            return {"choices": [{"delta": {"content": event.delta.text, "annotations": notes}}]}
        case "done":
            receipt = plain(event.done.receipt)
            receipt["usage"].pop("total_tokens")  # HTTP's receipt leaves the sum to the reader
            return {"usage": plain(event.done.usage), "tidegate": {"receipt": receipt}}
    return {}  # an event of a later version


def plain(message: Any) -> dict[str, Any]:
    """A message as the JSON of the HTTP API: enums as words, a time that was not reached as -1."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Any, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [plain(each) for each in value] if field.message_type is not None else list(value)
    if field.message_type is not None:
        return plain(value)
    if field.enum_type is not None:
        prefix = field.enum_type.values_by_number[0].name.removesuffix("UNSPECIFIED")
        known = field.enum_type.values_by_number.get(value) if value else None
        return known.name.removeprefix(prefix).lower() if known is not None else ""
    if field.has_presence and not message.HasField(field.name):
        return _NOT_REACHED_MS
    return value
