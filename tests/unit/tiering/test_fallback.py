from __future__ import annotations

import pytest

from gateway import errors
from gateway.tiering.fallback import CAUSES, cause_of, told


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.CircuitOpen("x"), "circuit_open"),
        (errors.UpstreamOverloaded("x"), "overloaded"),
        (errors.EngineFull("x"), "overloaded"),
        (errors.Rejected("the line is full"), "overloaded"),
        (errors.UpstreamUnavailable("x"), "unavailable"),
        (errors.UpstreamTimeout("x"), "timeout"),
        (errors.UpstreamProtocolError("x"), "malformed"),
        (errors.UpstreamError("x"), "refused"),
        (errors.UpstreamTimeout("x", code="request_timeout"), None),
        (errors.Rejected("draining", code="draining"), None),
        (errors.RateLimited("x"), None),
        (errors.DeadlineExceeded("x"), None),
        (errors.PromptTooLong("x"), None),
        (errors.Evicted("x"), None),
        (errors.InternalError("x"), None),
    ],
    ids=lambda value: f"{type(value).__name__}-{value.code}" if isinstance(value, Exception) else str(value),
)
def test_an_error_is_a_cause_only_if_another_tier_would_help(
    error: errors.TidegateError, cause: str | None
) -> None:
    assert cause_of(error) == cause


def test_every_cause_can_be_told() -> None:
    for cause in CAUSES:
        assert told("large", cause, "deep").endswith(f"({cause}), so deep answers")
