"""tidegate.v1.ChatService: the chat pipeline over gRPC, in the event loop of the HTTP API.

A thin adapter: bytes to the structs that HTTP uses, the same checks, the same pipeline, errors to statuses. Calls are
taken as raw streams of bytes, so that a caller is known before its message is read, and a message that is none gets
our answer instead of the library's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status

from gateway import filters
from gateway.api.answers import Transcript
from gateway.api.auth import PEER_HEADER, Caller
from gateway.api.collections import collection_ids
from gateway.api.decode import BODY_TIMEOUT_S
from gateway.api.errors import to_tidegate
from gateway.api.grpc_errors import to_status, too_large
from gateway.api.grpc_messages import chat_body, done_event, retrieve_body, retrieve_response
from gateway.api.grpc_stream import Context, EventWriter
from gateway.api.limits import headers_for
from gateway.api.memory import is_kept, keep
from gateway.api.resuming import CACHE_HEADER, cache_headers, event_id, going_on, leave
from gateway.api.resuming import HEADER as EVENT_HEADER
from gateway.api.search import SEARCH_TIMEOUT_S, metered_search
from gateway.api.services import Services
from gateway.api.traced import traced_call
from gateway.api.validation import (
    chat_request,
    check_takes_work,
    go_on_if_stopping,
    query_text,
    stopping,
)
from gateway.chat import ChatRequest
from gateway.errors import (
    ClientGone,
    DeadlineExceeded,
    InvalidRequest,
    TidegateError,
    UpstreamTimeout,
)
from gateway.lifecycle import State
from gateway.pipeline.handover import AfterEarlier
from gateway.proto import chat_pb2
from gateway.types import Scope

log = logging.getLogger("tidegate.grpc")

HOST_HEADER = "x-tidegate-host"  # the :authority that Envoy saw: grpcio does not show it to handlers
REQUEST_ID_KEY = "x-request-id"
SERVICE = chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name
# Above max_body_bytes: what is larger still is refused by the library before it is in memory; Envoy adds our code.
HARD_LIMIT_BYTES = 65_536
MAX_METADATA_BYTES = 20_480  # above Envoy's cap
# Our own end of a call comes this much before the caller's, so that it gets our answer and not its own timer's.
DEADLINE_MARGIN_S = 0.02
DEADLINE_MARGIN_SHARE = 0.1  # and no more than this of a short one
LAST_WRITE_S = 0.3  # for a reader to take what waits when its call is cut off
CUT_OFF_S = 2.0
GOODBYE_S = 1.0  # a reader that takes nothing does not take a status either

Method = Callable[[Context, float, str], Awaitable[None]]


class GrpcDoor:
    """The gRPC server of one worker."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._server: Any = None
        self._health = health.HealthServicer()
        self._calls: set[asyncio.Task[Any]] = set()

    async def start(self, port: int, host: str = "127.0.0.1") -> int:
        """Serve; the port that was bound. Raises: RuntimeError when it is taken."""
        self._server = grpc.aio.server(
            options=(
                (
                    "grpc.max_receive_message_length",
                    self._services.settings.max_body_bytes + HARD_LIMIT_BYTES,
                ),
                ("grpc.max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
                ("grpc.so_reuseport", 0),  # a second process must not bind beside us
            )
        )
        methods = {
            name: _handler(self._traced(name, method), self._calls, self._services)
            for name, method in self._methods().items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)
        bound = int(self._server.add_insecure_port(f"{host}:{port}"))
        await self._tell_health(self._services.lifecycle.state)
        self._services.lifecycle.on_change(self._follow)
        await self._server.start()
        return bound

    def _methods(self) -> dict[str, Method]:
        return {"Chat": self._chat, "Retrieve": self._retrieve}

    def _traced(self, name: str, method: Method) -> Method:
        tracer = self._services.tracer
        return method if tracer is None else traced_call(method, tracer, SERVICE, name)

    def retire(self, grace_s: float) -> None:
        """Send clients elsewhere: connections are told to end, calls that are open go on for grace_s at most."""
        if self._server is not None:
            self._services.lifecycle.spawn(self._server.stop(grace_s + CUT_OFF_S), "grpc-retire")

    async def cut_off(self) -> None:
        """Tell those whose calls are still open at the end of a drain."""
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        if calls:
            await asyncio.wait(calls, timeout=CUT_OFF_S)

    async def stop(self) -> None:
        """Refuse new calls and cut off those that are open."""
        if self._server is not None:
            await self._server.stop(None)

    def _follow(self, state: State) -> None:
        if state is not State.STOPPED:
            self._services.lifecycle.spawn(self._tell_health(state), "grpc-health")

    async def _tell_health(self, state: State) -> None:
        serving = health_pb2.HealthCheckResponse.ServingStatus
        status = serving.SERVING if state is State.READY else serving.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def _chat(self, context: Context, received: float, request_id: str) -> None:
        """One question. Whatever ends it, it is counted once: here until it is a request, by the pipeline after."""
        services = self._services
        try:
            left_s = _left_s(context)
            check_takes_work(services)
            tenant = await services.auth.tenant(_caller(context))
            data = await _read(context, services.settings.max_body_bytes)
            body = chat_body(data, max_messages=services.settings.max_messages, deadline_s=left_s)
            event = event_id(_metadata(context).get(EVENT_HEADER), is_stream=True)
            chat = await chat_request(body, tenant, services, received=received, request_id=request_id)
            chat = await going_on(services, chat, event)
        except (Exception, asyncio.CancelledError) as error:
            services.pipeline.refuse(request_id, received, error)
            raise
        writer = EventWriter(
            context,
            request_id,
            events=body.tidegate.events,
            max_stall_s=services.settings.slow_reader_s,
            metrics=services.metrics,
            head=lambda: headers_for(services, tenant) | cache_headers(chat),
            trail=chat.trail,
        )
        rest = AfterEarlier(writer, chat.earlier) if chat.earlier else None
        answer = Transcript(rest or writer)
        with services.lifecycle:
            async with writer:
                try:
                    receipt = await services.pipeline.run(
                        chat, answer if is_kept(chat, body) else rest or writer
                    )
                    if rest is not None:
                        rest.check_whole()
                    await keep(services, chat, body, receipt, answer)
                except ClientGone:
                    raise
                except asyncio.CancelledError:
                    raise await self._cut(chat, writer) from None
                except TidegateError:
                    limits = headers_for(services, tenant)
                    context.set_trailing_metadata(((REQUEST_ID_KEY, request_id), *limits.items()))
                    await writer.settle()
                    raise
                context.set_trailing_metadata(((REQUEST_ID_KEY, request_id), (CACHE_HEADER, receipt.cache)))
                await writer.finish(done_event(receipt))

    async def _cut(self, chat: ChatRequest, writer: EventWriter) -> TidegateError:
        """After a cancel: what the client is told, if it was ours, at the end of a drain. It has read all that was sent
        when it reads that. Raises: CancelledError, if it was not."""
        go_on_if_stopping(self._services)
        try:
            async with asyncio.timeout(LAST_WRITE_S):
                await writer.settle()
        except (ClientGone, TimeoutError):
            return stopping()
        return await leave(self._services, chat, writer.num_deltas)

    async def _retrieve(self, context: Context, received: float, request_id: str) -> None:
        services = self._services
        left_s = _left_s(context)
        check_takes_work(services)
        tenant = await services.auth.tenant(_caller(context))
        body = retrieve_body(await _read(context, services.settings.max_body_bytes))
        query = query_text([body.query], services.settings.max_question_chars)
        if body.filters is not None:
            filters.check(body.filters, "filters")
        ids = await collection_ids(services, tenant, body.collections)
        scope = Scope(tenant_id=tenant.tenant_id, collections=ids, k=body.top_k, filters=body.filters)
        timeout_s = SEARCH_TIMEOUT_S if left_s is None else min(SEARCH_TIMEOUT_S, left_s)
        with services.lifecycle:
            try:
                found = await metered_search(services, tenant, query, scope, timeout_s=timeout_s)
            except Exception as error:
                standing = headers_for(services, tenant).items()
                context.set_trailing_metadata(((REQUEST_ID_KEY, request_id), *standing))
                if isinstance(error, UpstreamTimeout) and timeout_s < SEARCH_TIMEOUT_S:
                    raise DeadlineExceeded("The request's deadline has passed.", param="deadline") from error
                raise
            total_ms = round((time.monotonic() - received) * 1000, 2)
            await context.send_initial_metadata(tuple(headers_for(services, tenant).items()))
            await context.write(retrieve_response(found, body.score_threshold, total_ms))


def _handler(method: Method, calls: set[asyncio.Task[Any]], services: Services) -> Any:
    """calls: those that are open, for as long as they are."""

    async def answer(_: object, context: Context) -> None:
        received, request_id = time.monotonic(), services.request_ids.next()
        context.set_trailing_metadata(((REQUEST_ID_KEY, request_id),))
        if task := asyncio.current_task():
            calls.add(task)
            task.add_done_callback(calls.discard)
        with services.lifecycle.arriving():
            try:
                await method(context, received, request_id)
            except asyncio.CancelledError:
                go_on_if_stopping(services)
                await _refuse(context, stopping())
            except Exception as error:  # noqa: BLE001  the edge: to_tidegate logs what is not ours
                await _refuse(context, to_tidegate(error))

    return grpc.stream_stream_rpc_method_handler(answer)


async def _refuse(context: Context, error: TidegateError) -> None:
    """End the call with the error's status. A reader that takes nothing gets it later, or never."""
    if error.detail:
        log.info("%s: %s", error.code, error.detail)
    status = rpc_status.to_status(to_status(error))
    metadata = (*status.trailing_metadata, *context.trailing_metadata())  # with the request's id
    try:
        async with asyncio.timeout(GOODBYE_S):
            await context.abort(status.code, status.details, metadata)
    except (
        TimeoutError,
        grpc.aio.InternalError,
    ):  # waits in the library for its reader, or has none any more
        raise asyncio.CancelledError from None


async def _read(context: Context, max_bytes: int) -> bytes:
    """The call's one message. Raises: InvalidRequest (there is none), PayloadTooLarge, DeadlineExceeded."""
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            data = await context.read()
    except TimeoutError:
        raise DeadlineExceeded("The message did not arrive in time.", code="request_timeout") from None
    if data is grpc.aio.EOF:
        await asyncio.sleep(0)  # a call that is cancelled, by us for its size or by its client, ends here
        raise InvalidRequest("The call holds no message.", code="no_message")
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    return bytes(data)


def _left_s(context: Context) -> float | None:
    """Seconds that our answer may take; None = the caller set no deadline. Raises: DeadlineExceeded."""
    left_s: float | None = context.time_remaining()
    if left_s is None:
        return None
    if left_s <= 0:
        raise DeadlineExceeded("The request's deadline has passed.", param="deadline")
    return left_s - min(DEADLINE_MARGIN_S, left_s * DEADLINE_MARGIN_SHARE)


def _caller(context: Context) -> Caller:
    """No page of ours speaks gRPC: a call with an `origin` comes from another one."""
    metadata = _metadata(context)
    return Caller(
        authorization=metadata.get("authorization"),
        peer=metadata.get(PEER_HEADER) or peer_address(context.peer()),
        host=metadata.get(HOST_HEADER, "localhost"),  # absent on our own port, which is loopback only
        origin=metadata.get("origin"),
        fetch_site=metadata.get("sec-fetch-site", "none"),
    )


def _metadata(context: Context) -> dict[str, Any]:
    """The first value of each key."""
    metadata: dict[str, Any] = {}
    for key, value in context.invocation_metadata() or ():
        metadata.setdefault(key, value)
    return metadata


def peer_address(peer: str) -> str:
    """`ipv4:127.0.0.1:5` or `ipv6:%5B::1%5D:5` -> the address alone."""
    return unquote(peer).partition(":")[2].rpartition(":")[0].strip("[]")
