"""How long a request may still take, and the error that says it took too long: the caller's deadline or ours."""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import DeadlineExceeded, TidegateError, UpstreamTimeout
from gateway.pipeline.request import ChatRequest

_SLACK_S = 0.005  # a timeout that comes this little before the deadline is the deadline's


def left_s(request: ChatRequest, clock: Callable[[], float]) -> float:
    """Seconds until the deadline. Raises: DeadlineExceeded or UpstreamTimeout when none are left."""
    left = request.deadline - clock()
    if left <= 0:
        raise over(request)
    return left


def late(request: ChatRequest, error: TidegateError, clock: Callable[[], float]) -> TidegateError:
    """What a timeout upstream was: the end of the request's time, or the model server's own."""
    return error if clock() < request.deadline - _SLACK_S else over(request)


def over(request: ChatRequest) -> TidegateError:
    if request.has_own_deadline:
        return DeadlineExceeded("The request's deadline has passed.", param="tidegate.deadline_ms")
    return UpstreamTimeout(
        "The answer was not ready within TIDEGATE_REQUEST_TIMEOUT_S.", code="request_timeout"
    )
