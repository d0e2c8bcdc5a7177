"""One client interface over both doors, so that a test can ask the same thing through each and compare.

A question is its fields by the names of chat.proto; HTTP's body is made of the same.
"""

from __future__ import annotations

import asyncio
import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.api.grpc_errors import field_name
from gateway.cli.grpc_client import plain
from gateway.proto import chat_pb2 as pb
from tests.integration.api.conftest import Gateway

EXTENSION = (
    "collections",
    "top_k",
    "conversation",
    "priority",
    "cache",
    "events",
    "ticket",
)  # HTTP keeps these in its `tidegate` object
CHAT = "/tidegate.v1.ChatService/Chat"
RETRIEVE = "/tidegate.v1.ChatService/Retrieve"
LIMIT_S = 20


@dataclass
class Failure:
    code: str
    param: str | None
    message: str
    status: int  # of HTTP
    retry_s: int | None = None  # whole seconds; None = not told
    ticket: str = ""  # for the place in line


@dataclass
class Reply:
    """All that a client saw of one question."""

    text: str = ""
    citations: list[dict[str, Any]] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # in the queue
    usage: dict[str, int] | None = None
    receipt: dict[str, Any] | None = None
    failure: Failure | None = None
    request_id: str = ""

    def comparable(self) -> dict[str, Any]:
        """Without what no two questions share: ids and times."""
        receipt = {
            name: value for name, value in (self.receipt or {}).items() if name not in {"id", "created"}
        }
        receipt |= {name: value >= 0 for name, value in receipt.items() if name.endswith("_ms")}
        failure = None
        if self.failure is not None:
            failure = vars(self.failure) | {"ticket": bool(self.failure.ticket)}
        is_open = bool(self.stages or self.places or self.text)
        if failure is not None and is_open:  # an error event inside a stream has no status
            failure |= {"status": 0}
        return {**vars(self), "receipt": receipt, "failure": failure, "request_id": ""}


class Question(ABC):
    """One that is under way."""

    @abstractmethod
    async def read_until(self, text: str) -> None: ...

    @abstractmethod
    async def leave(self) -> None: ...


class Door(ABC):
    name: str

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    @abstractmethod
    async def ask(
        self, *, deadline_ms: int | None = None, key: str | None = "acme", **fields: Any
    ) -> Reply: ...

    @abstractmethod
    async def open(self, **fields: Any) -> Question: ...

    @abstractmethod
    async def close(self) -> None: ...

    def authorization(self, key: str | None) -> dict[str, str]:
        """key: a tenant's, or a header as it stands, or None for no header."""
        if key is None:
            return {}
        known = self.gateway.keys.get(key)
        return {"authorization": f"Bearer {known}" if known else key}


def http_body(fields: dict[str, Any], deadline_ms: int | None = None) -> dict[str, Any]:
    body = {name: value for name, value in fields.items() if name not in EXTENSION}
    extension = {name: value for name, value in fields.items() if name in EXTENSION}
    if deadline_ms is not None:
        extension["deadline_ms"] = deadline_ms
    include_usage = {"include_usage": True}
    return body | {"stream": True, "stream_options": include_usage, "tidegate": extension}


class HttpDoor(Door):
    name = "http"

    async def close(self) -> None:
        """The client belongs to the gateway's fixture."""

    async def ask(self, *, deadline_ms: int | None = None, key: str | None = "acme", **fields: Any) -> Reply:
        body, headers = http_body(fields, deadline_ms), self.authorization(key)
        got = await self.gateway.client.post("/v1/chat/completions", json=body, headers=headers)
        reply = Reply(request_id=got.headers.get("x-request-id", ""))
        if got.status_code != 200:
            reply.failure = _http_failure(got.json()["error"], got.status_code)
            retry_after = got.headers.get("retry-after")
            assert retry_after == (reply.failure.retry_s and str(reply.failure.retry_s)), (
                "the body says other"
            )
            return reply
        for line in got.text.split("\n"):
            if line.startswith("data: {"):
                _add_chunk(reply, json.loads(line[6:]))
        return reply

    async def open(self, **fields: Any) -> Question:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.gateway.settings.port)
        body = json.dumps(http_body(fields)).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self.gateway.keys['acme']}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        return HttpQuestion(reader, writer)


@dataclass
class HttpQuestion(Question):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read_until(self, text: str) -> None:
        await self.reader.readuntil(text.encode())

    async def leave(self) -> None:
        self.writer.close()


def _http_failure(error: dict[str, Any], status: int) -> Failure:
    """In the words of chat.proto: a field of the `tidegate` object is a field of the message itself there."""
    param, message = error["param"], error["message"]
    name = field_name(param)
    if param is not None and name is not None:
        message = message.replace(param, name)
    retry_s = max(1, math.ceil(error["retry_after_s"])) if "retry_after_s" in error else None
    return Failure(error["code"], name, message, status, retry_s, error.get("ticket", ""))


def _add_chunk(reply: Reply, chunk: dict[str, Any]) -> None:
    if "error" in chunk:
        reply.failure = _http_failure(chunk["error"], 200)
    extension = chunk.get("tidegate", {})
    if "stage" in extension:
        reply.stages.append(extension["stage"])
    if "queue" in extension:
        reply.places.append(extension["queue"]["position"])
    reply.usage = chunk.get("usage", reply.usage)
    reply.receipt = extension.get("receipt", reply.receipt)
    for choice in chunk.get("choices", []):
        reply.text += choice["delta"].get("content", "")
        reply.citations += [note["file_citation"] for note in choice["delta"].get("annotations", [])]


def grpc_request(fields: dict[str, Any]) -> Any:
    """Words of enums become numbers; a word that is none becomes 99. What travels as JSON becomes that."""
    made = {
        name: json.dumps(each) if name in {"filters", "response_format"} and isinstance(each, dict) else each
        for name, each in fields.items()
    }
    for name, enum, prefix in (("priority", pb.Priority, "PRIORITY_"), ("cache", pb.CacheUse, "CACHE_USE_")):
        if name in made:
            made[name] = number(enum, prefix, made[name])
    made["messages"] = [
        pb.Message(role=number(pb.Role, "ROLE_", each["role"]), content=each["content"])
        for each in made.get("messages", [])
    ]
    return pb.ChatRequest(**made)


def number(enum: Any, prefix: str, word: str) -> int:
    return dict(enum.items()).get(prefix + word.upper(), 99)


class GrpcDoor(Door):
    name = "grpc"

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(gateway)
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{gateway.grpc_port}")

    async def close(self) -> None:
        await self.channel.close()

    async def ask(self, *, deadline_ms: int | None = None, key: str | None = "acme", **fields: Any) -> Reply:
        data = grpc_request(fields).SerializeToString()
        return await self.send(data, deadline_ms=deadline_ms, key=key)

    async def send(
        self,
        data: bytes,
        *,
        deadline_ms: int | None = None,
        key: str | None = "acme",
        metadata: dict[str, str] | None = None,
        compression: grpc.Compression | None = None,
    ) -> Reply:
        """The bytes of a request as they stand."""
        call = self.channel.unary_stream(CHAT, response_deserializer=pb.ChatEvent.FromString)(
            data,
            timeout=deadline_ms / 1000 if deadline_ms is not None else LIMIT_S,
            metadata=tuple((self.authorization(key) | (metadata or {})).items()),
            compression=compression,
        )
        reply = Reply()
        try:
            async for event in call:
                _add_event(reply, event)
        except grpc.aio.AioRpcError as error:
            reply.failure = grpc_failure(error)
        reply.request_id = str(dict(await call.trailing_metadata()).get("x-request-id", ""))
        return reply

    async def open(self, **fields: Any) -> Question:
        call = self.channel.unary_stream(CHAT, response_deserializer=pb.ChatEvent.FromString)(
            grpc_request(fields).SerializeToString(),
            metadata=tuple(self.authorization("acme").items()),
        )
        return GrpcQuestion(call)


@dataclass
class GrpcQuestion(Question):
    call: Any

    async def read_until(self, text: str) -> None:
        seen = ""
        while text not in seen:
            event = await self.call.read()
            assert event is not grpc.aio.EOF, seen
            seen += event.delta.text

    async def leave(self) -> None:
        self.call.cancel()


def _add_event(reply: Reply, event: Any) -> None:
    match event.WhichOneof("event"):
        case "stage":
            reply.stages.append(plain(event.stage)["stage"])
        case "queue":
            reply.places.append(event.queue.position)
        case "delta":
            reply.text += event.delta.text
            reply.citations += [plain(each) for each in event.delta.citations]
        case "done":
            assert reply.receipt is None, "done came twice"
            reply.usage, reply.receipt = plain(event.done.usage), plain(event.done.receipt)
            reply.receipt["usage"].pop("total_tokens")  # HTTP's receipt leaves the sum to the reader


# google.rpc.Code says which HTTP status each code goes with; where we use several, the error's code decides.
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 413,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
OWN_STATUS = {
    "deadline_exceeded": 408,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "upstream_error": 502,
    "upstream_protocol_error": 502,
}


def grpc_failure(error: grpc.aio.AioRpcError) -> Failure:
    status = rpc_status.from_call(error)
    assert status is not None, f"no details: {error.code()} {error.details()}"
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_s = None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_s = max(1, math.ceil(retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9))
    assert info.domain == "tidegate"
    assert error.details() == status.message
    http_status = OWN_STATUS.get(info.reason, HTTP_STATUS[error.code()])
    param, ticket = info.metadata.get("param"), info.metadata.get("ticket", "")
    return Failure(info.reason, param, status.message, http_status, retry_s, ticket)
