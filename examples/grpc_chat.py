"""Ask a question over gRPC and print the answer as it comes, then its sources.

    python examples/grpc_chat.py "What is tidegate?" [HOST:PORT]

TG_API_KEY holds the key; on the service's own machine in development mode none is needed.
"""

from __future__ import annotations

import asyncio
import os
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from gateway.proto import chat_pb2, chat_pb2_grpc

DEADLINE_S = 60.0
NUM_TRIES = 3


async def ask(stub: chat_pb2_grpc.ChatServiceStub, question: str, key: str) -> None:
    """Print one answer. Leaving the loop, by Ctrl-C for example, cancels the call and with it the work."""
    request = chat_pb2.ChatRequest(
        model="auto",
        messages=[chat_pb2.Message(role=chat_pb2.ROLE_USER, content=question)],
        events=True,
    )
    metadata = (("authorization", f"Bearer {key}"),) if key else ()
    async for event in stub.Chat(request, metadata=metadata, timeout=DEADLINE_S):
        match event.WhichOneof("event"):
            case "queue":
                print(f"(place {event.queue.position}, about {event.queue.eta_s:.0f} s)", file=sys.stderr)
            case "delta":
                print(event.delta.text, end="", flush=True)
            case "done":
                print("\n")
                for passage in event.done.receipt.passages:
                    if passage.cited:
                        print(f"[{passage.n}] {passage.filename} › {passage.heading}  {passage.score:.2f}")


def explain(error: grpc.aio.AioRpcError) -> float | None:
    """Print what went wrong; seconds after which trying again may help, or None."""
    status = rpc_status.from_call(error)
    if status is None:  # not from the service itself: nobody listens there, for example
        print(f"{error.code().name}: {error.details()}", file=sys.stderr)
        return None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    delay_s = None
    for detail in status.details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            delay_s = retry.retry_delay.ToTimedelta().total_seconds()
    field = f", field {info.metadata['param']}" if "param" in info.metadata else ""
    print(f"{status.message} ({info.reason}{field})", file=sys.stderr)
    return delay_s


async def main(question: str, address: str) -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        for _ in range(NUM_TRIES):
            try:
                await ask(stub, question, os.environ.get("TG_API_KEY", ""))
                return 0
            except grpc.aio.AioRpcError as error:
                delay_s = explain(error)
            if delay_s is None:
                return 1
            await asyncio.sleep(delay_s)
    return 1


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1:8080")))
