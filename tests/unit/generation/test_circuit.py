from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.generation.circuit import MAX_TRIES, Circuit, Rule

RULE = Rule(min_failures=3, failure_share=0.5, window_s=10, cool_down_s=5, max_cool_down_s=15)


def tried(circuit: Circuit, now: float, *, fails: bool) -> None:
    number = circuit.enter(now)
    assert number is not None
    if fails:
        circuit.failed(number, now)
    else:
        circuit.succeeded(number, now)


def opened(now: float = 0.0) -> Circuit:
    circuit = Circuit(RULE)
    for _ in range(3):
        tried(circuit, now, fails=True)
    return circuit


def test_it_opens_at_enough_failures_and_lets_nobody_in() -> None:
    circuit = Circuit(RULE)
    tried(circuit, 0, fails=True)
    tried(circuit, 0, fails=True)
    assert circuit.state(0) == "closed"
    tried(circuit, 1, fails=True)
    assert (circuit.state(1), circuit.wait_s(1), circuit.enter(1)) == ("open", 5, None)


def test_a_few_failures_among_many_good_tries_open_nothing() -> None:
    circuit = Circuit(RULE)
    for number in range(40):
        tried(circuit, number / 10, fails=number % 4 == 0)
    assert circuit.state(4) == "closed"


def test_failures_far_apart_open_nothing() -> None:
    circuit = Circuit(RULE)
    for number in range(10):
        tried(circuit, number * 6.0, fails=True)
    assert circuit.state(60) == "closed"


def test_one_try_is_let_in_after_the_cool_down_and_closes_it() -> None:
    circuit = opened()
    assert circuit.state(5) == "half_open"
    number = circuit.enter(5)
    assert number is not None
    assert circuit.enter(5) is None  # one at a time
    circuit.succeeded(number, 6)
    assert circuit.state(6) == "closed"
    tried(circuit, 6, fails=True)
    assert circuit.state(6) == "closed"  # what was before is forgotten


def test_a_failed_try_keeps_it_open_twice_as_long_up_to_a_bound() -> None:
    circuit, now, waits = opened(), 0.0, []
    for _ in range(4):
        now += circuit.wait_s(now)
        waits.append(circuit.wait_s(now - 0.001) + 0.0)
        tried(circuit, now, fails=True)
        waits[-1] = circuit.wait_s(now)
    assert waits == [10, 15, 15, 15]
    now += 15
    tried(circuit, now, fails=False)
    for _ in range(3):
        tried(circuit, now, fails=True)
    assert circuit.wait_s(now) == 5


def test_a_try_that_shows_nothing_lets_the_next_one_in() -> None:
    circuit = opened()
    number = circuit.enter(5)
    assert number is not None
    circuit.left(number)
    assert circuit.state(5) == "half_open"
    tried(circuit, 5, fails=False)
    assert circuit.state(5) == "closed"


def test_a_straggler_from_before_does_not_close_it() -> None:
    circuit = Circuit(RULE)
    old = circuit.enter(0)
    assert old is not None
    for _ in range(3):
        tried(circuit, 0, fails=True)
    circuit.succeeded(old, 1)
    assert circuit.state(1) == "open"


def test_a_stream_that_breaks_off_after_a_good_start_counts() -> None:
    circuit = Circuit(RULE)
    for _ in range(3):
        number = circuit.enter(0)
        assert number is not None
        circuit.succeeded(number, 0)
        circuit.failed(number, 0)
        circuit.left(number)
    assert circuit.state(0) == "open"


@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "left"]), st.floats(0, 20)), max_size=600))
def test_it_never_locks_up_and_never_grows(steps: list[tuple[str, float]]) -> None:
    circuit, now = Circuit(RULE), 0.0
    for how, pause in steps:
        now += pause
        number = circuit.enter(now)
        if number is None:
            continue
        if how == "good":
            circuit.succeeded(number, now)
        elif how == "bad":
            circuit.failed(number, now)
        circuit.left(number)
        assert circuit.wait_s(now) <= RULE.max_cool_down_s
    assert len(circuit._ended) <= MAX_TRIES
    now += RULE.max_cool_down_s
    tried(circuit, now, fails=False)
    assert circuit.state(now) == "closed"
