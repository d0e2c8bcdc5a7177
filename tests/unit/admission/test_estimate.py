"""What a request counts between tenants."""

from __future__ import annotations

import pytest

from gateway.admission.estimate import ANSWER_SHARE, Estimate, estimated_tokens, weighed
from gateway.admission.line import Ask, FairLine
from gateway.generation import prompt


@pytest.mark.parametrize(
    ("prompt", "answer", "cost"), [(0, 0, 1), (100, 0, 100), (0, 100, 200), (1000, 300, 1600)]
)
def test_a_token_that_is_written_counts_double(prompt: int, answer: int, cost: int) -> None:
    assert weighed(prompt, answer) == Estimate(prompt, answer).weighed == cost


def test_one_who_has_much_written_is_served_as_often_as_its_double_cost_allows() -> None:
    """Both move 900 tokens a request: one reads 600 and writes 300, the other reads them all but a few."""
    costs = {"writes": weighed(300, 600), "reads": weighed(900, 0)}
    line = FairLine(1, 100, 10**9)
    line.enter("held", Ask("x", 0, 1, 0, 10**9), 0)
    for number in range(12):
        for tenant, cost in costs.items():
            line.enter(f"{number:02d}{tenant}", Ask(tenant, 0, cost, 0, 10**9), 0)
    served = [name[2:] for name in line.waiting_names()[:16]]
    assert served.count("reads") == 10
    assert served.count("writes") == 6


def test_an_estimate_counts_what_is_asked_and_what_may_be_written() -> None:
    known = {
        "question_chars": 400,
        "history_chars": 800,
        "num_passages": 4,
        "chunk_chars": 1000,
        "tier_max_tokens": 300,
    }
    quoted = estimated_tokens(**known, context_tokens=0, max_tokens=None)
    assert quoted == Estimate(1100, 200)
    written = estimated_tokens(**known, context_tokens=4096, max_tokens=256)
    assert written == Estimate(120 + 100 + 200 + 1000, 256)
    as_the_tier_has_it = estimated_tokens(**known, context_tokens=4096, max_tokens=None)
    assert as_the_tier_has_it == Estimate(120 + 100 + 200 + 1000, 300)
    more_than_the_tier = estimated_tokens(**known, context_tokens=4096, max_tokens=1024)
    assert more_than_the_tier == Estimate(120 + 100 + 200 + 1000, 1024)


def test_a_long_answer_leaves_the_prompt_its_half_of_the_context() -> None:
    """As the prompt is built: what it does not take is the answer's, and both are no more than the context."""
    assert ANSWER_SHARE == prompt.ANSWER_SHARE
    known = {"question_chars": 0, "history_chars": 0, "num_passages": 10, "chunk_chars": 4000}
    whole = estimated_tokens(**known, context_tokens=4096, max_tokens=None, tier_max_tokens=4000)
    assert whole == Estimate(2048, 2048)
    short = estimated_tokens(
        **(known | {"num_passages": 0}), context_tokens=4096, max_tokens=None, tier_max_tokens=4000
    )
    assert short == Estimate(120, 4096 - 120)
