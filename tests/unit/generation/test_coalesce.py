from __future__ import annotations

import pytest

from gateway.generation.coalesce import Coalescer, Message, wait_by_load


def test_the_first_text_is_due_at_once() -> None:
    coalescer = Coalescer(100)
    coalescer.add("a", [1], 10.0, 8)
    assert coalescer.has_text
    assert coalescer.due_s == 10.0
    assert coalescer.take() == Message("a", [1])


def test_later_text_waits_from_its_first_piece_on() -> None:
    coalescer = Coalescer(100)
    coalescer.add("a", [1], 10.0, 8)
    coalescer.take()
    coalescer.add("b", [2], 11.0, 8)
    coalescer.add("c", [3, 4], 11.05, 8)
    assert coalescer.due_s == pytest.approx(11.1)
    assert coalescer.take() == Message("bc", [2, 3, 4])
    assert not coalescer.has_text


def test_tokens_without_text_wait_for_some_and_are_not_the_first() -> None:
    coalescer = Coalescer(100)
    coalescer.add("", [1], 10.0, 8)
    assert not coalescer.has_text
    coalescer.add("🌊", [2], 10.5, 8)
    assert coalescer.due_s == 10.5
    assert coalescer.take() == Message("🌊", [1, 2])


def test_no_wait_is_no_wait() -> None:
    coalescer = Coalescer(0)
    for number in range(3):
        coalescer.add("x", [number], float(number), 32)
        assert coalescer.due_s == number
        coalescer.take()


@pytest.mark.parametrize(
    ("num_running", "wait_ms"), [(0, 0), (1, 0), (4, 0), (5, 4), (8, 16), (32, 112), (1000, 250)], ids=str
)
def test_by_load_few_streams_never_wait_and_none_waits_long(num_running: int, wait_ms: float) -> None:
    assert wait_by_load(num_running) == wait_ms
