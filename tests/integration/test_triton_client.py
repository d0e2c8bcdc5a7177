from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from gateway import tensors
from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.settings import load_settings
from gateway.tensors import Model, Tensor
from gateway.triton import TritonClient
from tests.fakes.triton_process import FAKE_MODELS, TritonProcess, free_port, running_triton

AT_ONCE_S = 0.1
Leave = Callable[[TritonClient, dict], Awaitable[None]]
TICKER = Model(
    "ticker",
    "fakes",
    inputs=(
        Tensor("num_ticks", "INT32"),
        Tensor("delay_ms", "INT32"),
        Tensor("fail_at", "INT32", optional=True),
        Tensor("report", "BYTES", optional=True),
    ),
    outputs=(Tensor("tick", "INT32"),),
    max_batch_size=0,
    decoupled=True,
)


@pytest.fixture(scope="module")
def triton(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("ticker")
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [FAKE_MODELS / "ticker"], settings) as process:
        yield process


def number(value: int) -> np.ndarray:
    return np.array([value], np.int32)


def ask(num_ticks: int, delay_ms: int = 0, *, fail_at: int | None = None, report: Path | None = None) -> dict:
    inputs = {"num_ticks": number(num_ticks), "delay_ms": number(delay_ms)}
    if fail_at is not None:
        inputs["fail_at"] = number(fail_at)
    if report is not None:
        inputs["report"] = str(report)
    return inputs


async def ticks(client: TritonClient, inputs: dict, timeout_s: float = 10.0) -> list[int]:
    return [int(answer["tick"][0]) async for answer in client.stream(TICKER, inputs, timeout_s=timeout_s)]


async def text_of(report: Path) -> tuple[str, float]:
    """The report's text once it is there, and how long that took."""
    started = time.monotonic()
    while not (text := _read(report)):
        assert time.monotonic() - started < 5.0, "the model never reported"
        await asyncio.sleep(0.005)
    return text, time.monotonic() - started


def _read(report: Path) -> str:
    return report.read_text() if report.exists() else ""


@pytest.mark.parametrize("num_ticks", [0, 1, 500])
async def test_stream_gives_every_answer_in_order_and_ends(client: TritonClient, num_ticks: int) -> None:
    assert await ticks(client, ask(num_ticks)) == list(range(num_ticks))


async def test_many_streams_share_one_channel(client: TritonClient) -> None:
    found = await asyncio.gather(*[ticks(client, ask(20, 1)) for _ in range(32)])
    assert found == [list(range(20))] * 32


async def leaves_by_break(client: TritonClient, inputs: dict) -> None:
    async for _ in client.stream(TICKER, inputs, timeout_s=10):
        break


async def leaves_by_aclose(client: TritonClient, inputs: dict) -> None:
    async with aclosing(client.stream(TICKER, inputs, timeout_s=10)) as answers:
        await anext(answers)


async def is_cancelled(client: TritonClient, inputs: dict) -> None:
    task = asyncio.create_task(ticks(client, inputs))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(
    ("leave", "delay_ms"),
    [(leaves_by_break, 10), (leaves_by_aclose, 10), (is_cancelled, 10), (is_cancelled, 300)],
    ids=["break", "aclose", "cancelled mid-stream", "cancelled before the first answer"],
)
async def test_leaving_a_stream_cancels_the_request_on_triton_at_once(
    client: TritonClient, tmp_path: Path, leave: Leave, delay_ms: int
) -> None:
    """The model notices at its next tick. Best of five: the machine may be busy with something else."""
    waits_s = []
    for attempt in range(5):
        report = tmp_path / f"report-{attempt}"
        await leave(client, ask(1000, delay_ms, report=report))
        text, waited_s = await text_of(report)
        assert text == "cancelled"
        waits_s.append(waited_s - delay_ms / 1000)
        if waits_s[-1] < AT_ONCE_S:
            return
    pytest.fail(f"noticed after {waits_s} s")


async def test_deadline_ends_the_stream_and_the_request(client: TritonClient, tmp_path: Path) -> None:
    report = tmp_path / "report"
    with pytest.raises(UpstreamTimeout):
        await ticks(client, ask(1000, 10, report=report), timeout_s=0.2)
    assert (await text_of(report))[0] == "cancelled"


async def test_error_of_the_model_comes_after_its_answers_and_keeps_its_words_private(
    client: TritonClient,
) -> None:
    answers = client.stream(TICKER, ask(10, fail_at=3), timeout_s=10)
    assert [int((await anext(answers))["tick"][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UpstreamError) as caught:
        await anext(answers)
    assert caught.value.code == "upstream_error"
    assert "asked to fail" in caught.value.detail
    assert "asked to fail" not in caught.value.message


async def test_unknown_model_is_not_ready(client: TritonClient) -> None:
    assert await client.ready(["ticker"])
    assert not await client.ready(["ticker", "embed"])
    with pytest.raises(UpstreamUnavailable) as caught:
        await client.infer(tensors.EMBED, {"text": "x"}, timeout_s=5)
    assert caught.value.code == "model_not_ready"


async def test_nobody_listening_is_unavailable_and_not_ready() -> None:
    client = TritonClient("127.0.0.1:9")
    with pytest.raises(UpstreamUnavailable):
        await client.infer(tensors.EMBED, {"text": "x"}, timeout_s=5)
    with pytest.raises(UpstreamUnavailable):
        await ticks(client, ask(1))
    assert not await client.ready(["embed"])
    await client.close()


async def test_dead_stub_is_told_from_other_failures(triton_installed: None, tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path / "var", port=free_port() + 4)
    with running_triton(tmp_path, [FAKE_MODELS / "ticker"], settings) as triton:
        client = TritonClient(triton.target)
        assert await ticks(client, ask(2)) == [0, 1]
        (stub,) = triton.stub_pids("ticker")
        os.kill(stub, signal.SIGKILL)
        await asyncio.sleep(0.3)
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable) as caught:
                await ticks(client, ask(2), timeout_s=5)
            assert caught.value.code == "replica_dead"
        assert await client.ready(["ticker"])  # what Triton itself says: hence the guard
        await client.close()
        triton.process.kill()  # a sick Triton would take all of its exit timeout


class Scripted(service_pb2_grpc.GRPCInferenceServiceServicer):
    """A server that ends its first `num_failures` calls with `code`."""

    def __init__(
        self, code: grpc.StatusCode, details: str, *, num_failures: int, ticks_first: int = 0
    ) -> None:
        self.code, self.details, self.num_failures, self.ticks_first = (
            code,
            details,
            num_failures,
            ticks_first,
        )
        self.num_calls = 0

    async def _fail(self, context: grpc.aio.ServicerContext) -> None:
        self.num_calls += 1
        if self.num_calls <= self.num_failures:
            await context.abort(self.code, self.details)

    async def ModelInfer(self, request, context):
        await self._fail(context)
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="embedding", datatype="FP32", shape=[1, tensors.EMBEDDING_DIM])
        answer.raw_output_contents.append(np.ones(tensors.EMBEDDING_DIM, np.float32).tobytes())
        return answer

    async def ModelStreamInfer(self, requests, context):
        for value in range(self.ticks_first):
            yield _tick(value, is_final=False)
        await self._fail(context)
        yield _tick(self.ticks_first, is_final=True)


def _tick(value: int, *, is_final: bool) -> service_pb2.ModelStreamInferResponse:
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.outputs.add(name="tick", datatype="INT32", shape=[1])
    message.infer_response.raw_output_contents.append(number(value).tobytes())
    message.infer_response.parameters["triton_final_response"].bool_param = is_final
    return message


@contextlib.asynccontextmanager
async def serving(servicer: Scripted) -> AsyncIterator[TritonClient]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TritonClient(f"127.0.0.1:{port}", num_channels=2)
    yield client
    await client.close()
    await server.stop(0)


RETRIED = {
    "unavailable": (grpc.StatusCode.UNAVAILABLE, "upstream connect error"),
    "dead-stub": (grpc.StatusCode.INTERNAL, "Stub process 'embed_0_0' is not healthy."),
    "cancelled-by-the-server": (grpc.StatusCode.CANCELLED, "going away"),
}


@pytest.mark.parametrize(("code", "details"), RETRIED.values(), ids=RETRIED.keys())
async def test_unary_call_moves_to_another_replica_once(code: grpc.StatusCode, details: str) -> None:
    servicer = Scripted(code, details, num_failures=1)
    async with serving(servicer) as client:
        answer = await client.infer(tensors.EMBED, {"text": "x"}, timeout_s=5)
    assert answer["embedding"].shape == (1, tensors.EMBEDDING_DIM)
    assert servicer.num_calls == 2


@pytest.mark.parametrize(("code", "details"), RETRIED.values(), ids=RETRIED.keys())
async def test_stream_moves_before_its_first_answer(code: grpc.StatusCode, details: str) -> None:
    servicer = Scripted(code, details, num_failures=1)
    async with serving(servicer) as client:
        assert await ticks(client, ask(1)) == [0]
    assert servicer.num_calls == 2


async def test_stream_is_not_repeated_after_its_first_answer() -> None:
    servicer = Scripted(grpc.StatusCode.UNAVAILABLE, "gone", num_failures=1, ticks_first=2)
    async with serving(servicer) as client:
        with pytest.raises(UpstreamUnavailable):
            await ticks(client, ask(1))
    assert servicer.num_calls == 1


async def test_second_failure_is_the_answer() -> None:
    servicer = Scripted(grpc.StatusCode.UNAVAILABLE, "gone", num_failures=9)
    async with serving(servicer) as client:
        with pytest.raises(UpstreamUnavailable):
            await client.infer(tensors.EMBED, {"text": "x"}, timeout_s=5)
    assert servicer.num_calls == 2


async def test_refused_request_is_not_repeated() -> None:
    servicer = Scripted(grpc.StatusCode.INVALID_ARGUMENT, "bad shape", num_failures=9)
    async with serving(servicer) as client:
        with pytest.raises(UpstreamProtocolError):
            await client.infer(tensors.EMBED, {"text": "x"}, timeout_s=5)
    assert servicer.num_calls == 1
