"""The request's id goes to Triton with each of its calls, over a real gRPC connection."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio

from gateway.errors import UpstreamError
from gateway.request_id import HEADER, working_for
from gateway.tensors import SEARCH
from gateway.triton import TritonClient

EMBEDDING = np.zeros(384, np.float32).reshape(1, -1)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[int, list[dict[str, Any]]]]:
    """A server that refuses everything and writes down what came along."""
    seen: list[dict[str, Any]] = []

    async def refuse(_: bytes, context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        return b""

    class Everything(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: Any) -> Any:
            if details.method.endswith("ModelStreamInfer"):
                return grpc.stream_stream_rpc_method_handler(refuse_stream)
            return grpc.unary_unary_rpc_method_handler(refuse)

    async def refuse_stream(requests: Any, context: Any) -> Any:
        await refuse(b"", context)
        yield b""

    made = grpc.aio.server()
    made.add_generic_rpc_handlers((Everything(),))
    port = made.add_insecure_port("127.0.0.1:0")
    await made.start()
    yield port, seen
    await made.stop(0)


async def test_calls_carry_the_id_of_their_request_and_of_no_other(
    server: tuple[int, list[dict[str, Any]]],
) -> None:
    port, seen = server
    client = TritonClient(f"127.0.0.1:{port}")
    inputs: dict[str, Any] = {"embedding": EMBEDDING, "text": [b"x"], "scope": [b"{}"]}

    async def call() -> None:
        with pytest.raises(UpstreamError):
            await client.infer(SEARCH, inputs, timeout_s=5)

    async def stream() -> None:
        with pytest.raises(UpstreamError):
            async for _ in client.stream(SEARCH, inputs, timeout_s=5):
                pass

    with working_for("chatcmpl-1"):
        await call()
        await stream()
    await call()
    await client.close()
    assert [each.get(HEADER) for each in seen] == ["chatcmpl-1", "chatcmpl-1", None]
