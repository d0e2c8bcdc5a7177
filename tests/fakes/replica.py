"""A scripted Triton replica: HTTP/2 by hand, so that a stream can break at any byte, and a guard's health port."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events

STEP_S = 0.02
BREAK_S = (
    0.2  # before a break, in which Envoy passes on what came: one that sleeps so long loses it with the rest
)
HEADERS = [(":status", "200"), ("content-type", "application/grpc")]


def message(data: bytes) -> bytes:
    """gRPC's frame around one message."""
    return b"\0" + len(data).to_bytes(4, "big") + data


@dataclass
class Replica:
    """`behave` is what happens to each call, one word a step:

    headers, message, ok (trailers), unavailable (trailers, or alone: trailers only), reset, refuse_stream, cut (the
    connection), hang. Between two steps there is a pause, so that none overtakes another, and a longer one before what
    breaks a stream.
    """

    port: int
    guard_port: int
    behave: str = "headers message message ok"
    num_calls: int = 0
    num_open: int = 0
    is_healthy: bool = True
    heads: list[dict[str, str]] = field(default_factory=list)  # of the calls
    host: str = "127.0.0.1"
    _servers: list[asyncio.Server] = field(default_factory=list)
    _connections: set[asyncio.StreamWriter] = field(default_factory=set)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def start(self) -> None:
        self._servers = [
            await asyncio.start_server(self._serve, self.host, self.port),
            await asyncio.start_server(self._health, self.host, self.guard_port),
        ]

    async def serve_again(self) -> None:
        self._servers[0] = await asyncio.start_server(self._serve, self.host, self.port)

    async def stop_serving(self) -> None:
        """The replica is gone while its guard still believes in it."""
        self._servers[0].close()
        for writer in list(self._connections):
            writer.transport.abort()

    async def stop(self) -> None:
        await self.stop_serving()
        self._servers[1].close()

    async def _health(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            status = "200 OK" if self.is_healthy else "503 Service Unavailable"
            writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        http = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        http.initiate_connection()
        writer.write(http.data_to_send())
        try:
            while data := await reader.read(65_536):
                for event in http.receive_data(data):
                    if isinstance(event, h2.events.DataReceived):
                        http.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    if isinstance(event, h2.events.RequestReceived):
                        self.heads.append(dict(event.headers))
                    if isinstance(event, h2.events.StreamEnded):
                        task = asyncio.create_task(self._answer(http, writer, event.stream_id))
                        self._tasks.add(task)
                        task.add_done_callback(self._tasks.discard)
                    if isinstance(event, h2.events.StreamReset):
                        self.num_open -= 1
                writer.write(http.data_to_send())
        except ConnectionError:
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(
        self, http: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream_id: int
    ) -> None:
        self.num_calls += 1
        self.num_open += 1
        has_headers = False
        for number, step in enumerate(self.behave.split()):
            if number and step in {"cut", "reset", "refuse_stream"}:
                await asyncio.sleep(BREAK_S)
            match step:
                case "headers":
                    http.send_headers(stream_id, HEADERS)
                    has_headers = True
                case "message":
                    http.send_data(stream_id, message(b"%d" % number))
                case "ok" | "unavailable":
                    trailers = [("grpc-status", "0" if step == "ok" else "14")]
                    http.send_headers(
                        stream_id, trailers if has_headers else HEADERS + trailers, end_stream=True
                    )
                    self.num_open -= 1
                case "reset" | "refuse_stream":
                    codes = h2.errors.ErrorCodes
                    code = codes.INTERNAL_ERROR if step == "reset" else codes.REFUSED_STREAM
                    http.reset_stream(stream_id, code)
                    self.num_open -= 1
                case "cut":
                    writer.transport.abort()
                    self.num_open -= 1
                case "hang":
                    return
            writer.write(http.data_to_send())
            await asyncio.sleep(STEP_S)
