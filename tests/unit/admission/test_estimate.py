"""What a request counts between tenants."""

from __future__ import annotations

import pytest

from gateway.admission.estimate import Estimate, estimated_tokens, weighed
from gateway.admission.line import Ask, FairLine


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
    known = {"question_chars": 400, "history_chars": 800, "num_passages": 4, "chunk_chars": 1000}
    quoted = estimated_tokens(**known, context_tokens=0, max_tokens=None)
    assert quoted == Estimate(1100, 200)
    written = estimated_tokens(**known, context_tokens=4096, max_tokens=256)
    assert written == Estimate(120 + 100 + 200 + 1000, 256)
