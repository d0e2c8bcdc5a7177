from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from contextlib import aclosing

import msgspec
import pytest

from gateway.errors import UpstreamProtocolError, UpstreamTimeout
from gateway.generation.triton_reader import TritonReader
from gateway.settings import load_settings
from gateway.tensors import READER
from gateway.triton import TritonClient
from gateway.types import Delta, Inquiry, Passage, Sampling
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

MILL = (
    "Copper conducts heat. It was found near the lake in 1843 by Anna Berg. Copper conducts current well. "
    "Copper conducts sound too."
)


def passage(text: str, *, start: int = 0, score: float = 0.7) -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading="Metals",
        start=start, end=start + len(text), text=text, score=score,
    )  # fmt: skip


@pytest.fixture(scope="module")
def triton(triton_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("reader")
    settings = load_settings({}, var=folder / "var", port=free_port(), embed_threads=1)
    with running_triton(folder, [MODELS / "generation" / "reader"], settings) as process:
        yield process


async def steps_of(
    reader: TritonReader,
    question: str,
    *passages: Passage,
    max_tokens: int | None = None,
    timeout_s: float = 20.0,
) -> list[Delta]:
    inquiry = Inquiry(question=question, sampling=Sampling(max_tokens=max_tokens))
    return [delta async for delta in reader.answer(inquiry, passages, timeout_s=timeout_s)]


@pytest.mark.parametrize("mode", ["fast", "deep"])
async def test_the_best_sentence_streams_first_and_the_last_step_says_stop(
    client: TritonClient, mode: str
) -> None:
    steps = await steps_of(TritonReader(client, mode), "What does copper conduct?", passage(MILL, start=100))
    cited = [citation for step in steps for citation in step.citations]
    assert len(cited) > 1
    assert [c.start for c in cited[1:]] == sorted(c.start for c in cited[1:])
    assert all(MILL[c.start - 100 : c.end - 100] == c.text for c in cited)
    assert all(step.text.endswith("[1]") and len(step.citations) == 1 for step in steps[:-1])
    assert [step.finish_reason for step in steps] == [""] * (len(steps) - 1) + ["stop"]
    assert steps[-1].num_input_tokens > 20
    assert steps[-1].num_output_tokens > 5


@pytest.mark.parametrize("mode", ["fast", "deep"])
async def test_nothing_is_cited_where_nothing_answers(client: TritonClient, mode: str) -> None:
    steps = await steps_of(
        TritonReader(client, mode), "Who won the chess tournament?", passage(MILL, score=0.05)
    )
    assert [step.citations for step in steps] == [[]]
    assert steps[-1].finish_reason == "no_answer"


async def test_no_passages_still_end_the_stream(client: TritonClient) -> None:
    assert (await steps_of(TritonReader(client, "fast"), "Who?"))[-1].finish_reason == "no_answer"


async def test_max_tokens_ends_with_length(client: TritonClient) -> None:
    steps = await steps_of(
        TritonReader(client, "fast"), "What does copper conduct?", passage(MILL), max_tokens=4
    )
    assert steps[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("question", b"\xff"),
        ("passages", b"{"),
        ("passages", b'[{"text": 3}]'),
        ("params", b'{"mode": "slow"}'),
    ],
    ids=repr,
)
async def test_bad_input_fails_alone_and_names_the_tensor(
    client: TritonClient, name: str, value: bytes
) -> None:
    inputs = {"question": b"What?", "passages": b"[]", "params": b"{}"} | {name: value}
    with pytest.raises(UpstreamProtocolError) as caught:
        async for _ in client.stream(READER, inputs, timeout_s=10.0):
            pass
    assert f"{name}: " in caught.value.detail
    assert (await steps_of(TritonReader(client, "fast"), "What does copper conduct?", passage(MILL)))[
        -1
    ].finish_reason


async def test_a_caller_that_leaves_does_not_disturb_the_others(client: TritonClient) -> None:
    reader = TritonReader(client, "deep")

    async def leaves() -> None:
        async with aclosing(
            reader.answer(Inquiry(question="What does copper conduct?"), [passage(MILL)], timeout_s=20.0)
        ) as steps:
            async for _ in steps:
                return

    async def stays() -> str:
        return (await steps_of(reader, "What does copper conduct?", passage(MILL)))[-1].finish_reason

    results = await asyncio.gather(*(leaves() if i % 2 else stays() for i in range(40)))
    assert [r for r in results if r is not None] == ["stop"] * 20


async def test_refusals_among_callers_that_leave_disturb_nobody(client: TritonClient) -> None:
    """An error sent from the backend's own loop, while streams are cancelled, ends its process."""
    reader = TritonReader(client, "deep")

    async def leaves(number: int) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.002 + 0.003 * (number % 9)):
                await steps_of(reader, "What does copper conduct?", passage(MILL))

    async def is_refused() -> None:
        inputs = {"question": b"\xff", "passages": b"[]", "params": b"{}"}
        with pytest.raises(UpstreamProtocolError, match="model server") as caught:
            async for _ in client.stream(READER, inputs, timeout_s=20.0):
                pass
        assert "question: " in caught.value.detail

    for _ in range(10):
        await asyncio.gather(*(is_refused() if number % 2 else leaves(number) for number in range(60)))
    assert (await steps_of(reader, "What does copper conduct?", passage(MILL)))[-1].finish_reason == "stop"


async def test_a_cancelled_queue_of_work_is_dropped(client: TritonClient) -> None:
    """Requests whose callers gave up cost nothing: the next answer comes long before they could all have been made."""
    reader = TritonReader(client, "deep")
    long = [
        passage("Copper conducts heat and sound and current in the year 1843 near the lake. " * 60)
        for _ in range(8)
    ]

    async def gave_up() -> bool:
        try:
            await steps_of(reader, "What does copper conduct?", *long, timeout_s=0.05)
        except UpstreamTimeout:
            return True
        return False

    started = time.monotonic()
    await steps_of(reader, "What does copper conduct?", *long)
    alone_s = time.monotonic() - started
    gone = await asyncio.gather(*(gave_up() for _ in range(60)))
    assert sum(gone) >= 50  # the first in line may be answered in time
    started = time.monotonic()
    await steps_of(reader, "What does copper conduct?", *long)
    assert time.monotonic() - started < 20 * alone_s


async def test_a_flood_is_answered_whole(client: TritonClient) -> None:
    readers = [TritonReader(client, mode) for mode in ("fast", "deep")]
    answers = await asyncio.gather(
        *(steps_of(readers[i % 2], "What does copper conduct?", passage(MILL)) for i in range(60))
    )
    texts = {("".join(step.text for step in steps), steps[-1].finish_reason) for steps in answers}
    assert len(texts) <= 2
    assert {reason for _, reason in texts} == {"stop"}


async def test_the_wire_form_is_what_tensors_says(client: TritonClient) -> None:
    inputs = {
        "question": b"What does copper conduct?",
        "passages": msgspec.json.encode([passage(MILL)]),
        "params": b"",
    }
    async for outputs in client.stream(READER, inputs, timeout_s=10.0):
        assert set(outputs) == {tensor.name for tensor in READER.outputs}
