"""What a caller is told of its limits: OpenAI's headers, months, durations. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import NamedTuple

REQUESTS, TOKENS, STREAMS, BUDGET = "requests", "tokens", "streams", "budget"


class Standing(NamedTuple):
    """One kind of limit as a caller may see it: the tightest of tenant and key."""

    limit: int
    remaining: int
    reset_s: float


class Month(NamedTuple):
    name: str  # 2026-11
    begins_at: int  # unix seconds
    ends_at: int


def month_of(now: float) -> Month:
    """The calendar month in UTC."""
    first = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(
        day=1, hour=0, minute=0, second=0, microsecond=0
    )
    following = (first + datetime.timedelta(days=32)).replace(day=1)
    return Month(f"{first:%Y-%m}", int(first.timestamp()), int(following.timestamp()))


def rate_headers(standing: Mapping[str, Standing]) -> dict[str, str]:
    """OpenAI's headers: x-ratelimit-limit-requests, …; nothing for what is not limited."""
    headers = {}
    for kind in (REQUESTS, TOKENS):
        if kind in standing:
            each = standing[kind]
            headers[f"x-ratelimit-limit-{kind}"] = str(each.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(each.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = duration(each.reset_s)
    return headers


def duration(seconds: float) -> str:
    """As OpenAI writes it: 250ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{max(0, round(seconds * 1000))}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest}s"
