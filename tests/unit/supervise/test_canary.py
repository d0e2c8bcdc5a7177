"""The rule that tells a sick model from a busy one, in plain seconds."""

from __future__ import annotations

import grpc
import pytest

from gateway.supervise.canary import Answer, Pulse, Verdict, canary_request, judge
from gateway.tensors import EMBED, READER, SEARCH, Model, generate_model


def test_a_model_that_answers_is_well() -> None:
    pulse = Pulse(0.0)
    pulse.answered(Answer.GOOD, 100.0)
    assert pulse.verdict(100.5) is Verdict.WELL


def test_a_dead_stub_is_death_at_once() -> None:
    pulse = Pulse(0.0)
    pulse.answered(Answer.STUB_DEAD, 0.1)
    assert pulse.verdict(0.1) is Verdict.DEAD


def test_a_vanished_stub_is_death_even_after_a_good_answer() -> None:
    pulse = Pulse(0.0)
    pulse.stub_died()
    pulse.answered(Answer.GOOD, 0.1)
    assert pulse.verdict(0.1) is Verdict.DEAD


def test_silence_is_suspect_after_3_s_and_death_after_10() -> None:
    pulse = Pulse(0.0)
    pulse.answered(Answer.LATE, 1.5)
    assert [pulse.verdict(now_s) for now_s in (2.9, 3.0, 9.9, 10.0)] == ["well", "suspect", "suspect", "dead"]


def test_a_suspect_that_answers_is_well_again() -> None:
    pulse = Pulse(0.0)
    assert pulse.verdict(5.0) is Verdict.SUSPECT
    pulse.answered(Answer.GOOD, 5.1)
    assert pulse.verdict(5.2) is Verdict.WELL


def test_late_canaries_do_not_count_while_other_inferences_finish() -> None:
    pulse = Pulse(0.0)
    for second in range(1, 61):
        pulse.answered(Answer.LATE, float(second))
        pulse.observed(num_finished=second, stub_work_s=0.0, now_s=float(second))
        assert pulse.verdict(float(second)) is Verdict.WELL


def test_a_stub_that_computes_or_waits_for_a_processor_is_busy_until_nothing_has_finished_for_60_s() -> None:
    pulse = Pulse(0.0)
    verdicts = []
    for second in range(1, 61):
        pulse.answered(Answer.LATE, float(second))
        pulse.observed(num_finished=0, stub_work_s=0.9 * second, now_s=float(second))
        verdicts.append(pulse.verdict(float(second)))
    assert verdicts == [Verdict.WELL] * 59 + [Verdict.DEAD]


def test_a_trickle_of_processor_time_is_not_work() -> None:
    pulse = Pulse(0.0)
    for second in range(1, 11):
        pulse.observed(num_finished=0, stub_work_s=0.01 * second, now_s=float(second))
    assert pulse.verdict(10.0) is Verdict.DEAD


def test_a_background_model_may_be_silent_for_minutes_but_not_for_ever() -> None:
    pulse = Pulse(0.0, is_background=True)
    for second in range(1, 601):
        pulse.answered(Answer.LATE, float(second))
        pulse.observed(num_finished=0, stub_work_s=0.0, now_s=float(second))
    assert [pulse.verdict(now_s) for now_s in (3.0, 599.9, 600.0)] == ["well", "well", "dead"]


def test_a_background_model_without_its_stub_is_dead_at_once() -> None:
    pulse = Pulse(0.0, is_background=True)
    pulse.stub_died()
    assert pulse.verdict(0.1) is Verdict.DEAD


def test_an_error_of_the_models_own_code_is_a_sign_of_life() -> None:
    pulse = Pulse(0.0)
    pulse.answered(Answer.ERROR, 20.0)
    assert pulse.verdict(20.0) is Verdict.WELL


@pytest.mark.parametrize(
    ("code", "details", "answer"),
    [
        pytest.param(
            "INTERNAL", "Stub process 'embed_0_0' is not healthy.", Answer.STUB_DEAD, id="dead stub"
        ),
        pytest.param(
            "INTERNAL", "Failed to process the request: ValueError", Answer.ERROR, id="model raised"
        ),
        pytest.param("DEADLINE_EXCEEDED", "", Answer.LATE, id="too slow"),
        pytest.param("UNAVAILABLE", "failed to connect to all addresses", Answer.LATE, id="no connection"),
        pytest.param("UNAVAILABLE", "Exceeds maximum queue size", Answer.ERROR, id="full queue"),
        pytest.param("UNAVAILABLE", "vector_store_unavailable: refused", Answer.ERROR, id="store away"),
    ],
)
def test_a_failed_call_is_read_right(code: str, details: str, answer: Answer) -> None:
    assert judge(grpc.StatusCode[code], details) is answer


@pytest.mark.parametrize("model", [EMBED, SEARCH, READER], ids=lambda model: model.name)
def test_a_canary_fills_every_required_input(model: Model) -> None:
    request = canary_request(model)
    required = [tensor.name for tensor in model.inputs if not tensor.optional]
    assert [tensor.name for tensor in request.inputs] == required
    assert len(request.raw_input_contents) == len(required)
    has_batch = [list(tensor.shape)[:1] == [1] for tensor in request.inputs]
    assert all(has_batch)


def test_the_canary_of_a_generative_tier_asks_for_no_tokens() -> None:
    request = canary_request(generate_model("small"))
    assert request.model_name == "small"
    assert [(tensor.name, list(tensor.shape)) for tensor in request.inputs] == [("max_tokens", [1])]
    assert request.raw_input_contents == [b"\0\0\0\0"]
