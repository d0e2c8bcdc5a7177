"""Replicas of this machine, counted by their guards."""

from __future__ import annotations

import asyncio

from gateway.admission.replicas import Guards


async def test_guards_are_counted_when_they_are_well() -> None:
    said = iter([b"200 OK", b"503 Service Unavailable", b""])

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status = next(said)
        if status:
            writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await Guards([port, port, port]).count([""]) == 1
    assert await Guards([port]).count([""]) is None  # nobody is there: not a tier without slots
