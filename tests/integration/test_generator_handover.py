"""A tier on a real Triton goes on after the tokens that another worker had made: text, citations and counts."""

from __future__ import annotations

import json

import pytest

from gateway.generation.triton_generator import TOKEN_BYTES, TritonGenerator
from gateway.types import Delta, Inquiry, Turn
from tests.fakes.engines import PASSAGES
from tests.integration.test_triton_generator import SHOWN, TEXT, generator, text_of, triton

__all__ = ["generator", "triton"]


async def write(generator: TritonGenerator, ids: bytes = b"", said: str = "") -> list[Delta]:
    inquiry = Inquiry(
        question=json.dumps({"text": TEXT}),
        history=[Turn("user", "Hi"), Turn("assistant", "Hello")],
        ids=ids,
        said=said,
    )
    return [delta async for delta in generator.answer(inquiry, PASSAGES, timeout_s=20)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 1.0], ids=str)
async def test_the_answer_is_whole_wherever_the_first_worker_left_it(
    generator: TritonGenerator, share: float
) -> None:
    first = await write(generator)
    left = first[: max(1, int(share * (len(first) - 1)))]
    ids, said = b"".join(each.ids for each in left), "".join(each.said for each in left)
    assert len(ids) == TOKEN_BYTES * left[-1].num_output_tokens
    second = await write(generator, ids, said)
    assert text_of(second) == SHOWN
    assert [each.passage for delta in second for each in delta.citations] == [1, 2]
    assert second[-1].num_output_tokens == len(TEXT)
    assert second[-1].num_unsupported == first[-1].num_unsupported
    assert b"".join(each.ids for each in second) == b"".join(each.ids for each in first)
    assert "".join(each.said for each in second) == "".join(each.said for each in first)


async def test_only_what_it_lacks_is_made_again(generator: TritonGenerator) -> None:
    first = await write(generator)
    left = first[: len(first) // 2]
    second = await write(generator, b"".join(each.ids for each in left), "".join(each.said for each in left))
    assert second[1].ids == b"".join(each.ids for each in left), "the first step is all that is known"
