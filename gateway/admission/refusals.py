"""How a refusal is told, and remembered for a moment."""

from __future__ import annotations

from collections.abc import Callable

from gateway.admission.line import Status
from gateway.errors import DeadlineExceeded, Evicted, Rejected, TidegateError

REMEMBERED_S = 0.05  # at the least; while a line of that length is served
REMEMBERED_SHARE = 0.05  # of the wait that was told: no line gets short in that time
REMEMBERED_AT_MOST_S = 0.5  # slots may come back all at once
MAX_REFUSED = 1024


class RecentRefusals:
    """A tenant that was refused is so for a moment, without another look: a flood costs next to nothing.

    The longer the wait that it was told, the longer the moment: whoever would stand behind ten seconds of work loses
    nothing by half a second, and the slots are never without somebody who waits. Where there was no room for one of its
    size, those that are smaller are looked at.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, Status, float, int]] = {}

    def note(self, tenant: str, band: str, status: Status, eta_s: float, size: int = 0) -> None:
        """size: bytes of the request."""
        if len(self._known) >= MAX_REFUSED:
            self._known.clear()
        moment_s = min(REMEMBERED_AT_MOST_S, max(REMEMBERED_S, REMEMBERED_SHARE * eta_s))
        least = size if status == "large" else 0
        self._known[tenant, band] = (self._clock() + moment_s, status, eta_s, least)

    def check(self, tenant: str, band: str, size: int = 0) -> None:
        """Raises: Rejected."""
        until, status, eta_s, least = self._known.get((tenant, band), (0.0, "full", 0.0, 0))
        if self._clock() < until and size >= least:
            raise refused(status, eta_s)


def refused(status: Status, eta_s: float, ticket: str = "") -> TidegateError:
    """The error of a place that was not given. eta_s: the expected wait of that place."""
    retry_after_s = max(0.05, eta_s)
    if status == "infeasible":
        return Rejected(
            f"The deadline cannot be met: the expected wait is {retry_after_s:.1f} s.",
            code="deadline_infeasible",
            param="tidegate.deadline_ms",
            retry_after_s=retry_after_s,
            ticket=ticket,
        )
    if status == "too_long":
        return Rejected(
            f"The service is at capacity: the expected wait of {retry_after_s:.0f} s is longer than it keeps a request "
            "waiting.",
            retry_after_s=retry_after_s,
            ticket=ticket,
        )
    return Rejected(
        "The service is at capacity and its queue is full; try again later.",
        retry_after_s=retry_after_s,
        ticket=ticket,
    )


def displaced(eta_s: float, ticket: str) -> Evicted:
    return Evicted(
        "The queue is full, and a request with a better right took this one's place.",
        code="displaced",
        retry_after_s=max(0.05, eta_s),
        ticket=ticket,
    )


def waited_too_long(*, by_deadline: bool, ttl_s: float, eta_s: float, ticket: str) -> TidegateError:
    """eta_s: the expected wait of the place that the ticket keeps."""
    if by_deadline:
        return DeadlineExceeded("The request's deadline passed while it waited in the queue.")
    return Evicted(
        f"The request waited {ttl_s:g} s in the queue without getting a slot.",
        retry_after_s=max(0.05, eta_s),
        ticket=ticket,
    )
