"""Listings, page by page: which part of one is asked for, and the page as OpenAI's cursors want it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from sanic import HTTPResponse, Request

from gateway.api.reply import reply
from gateway.errors import InvalidRequest


class Cut(TypedDict):
    """A part of a listing, as storage takes it. after: id of the entry before the first one; None = from the start."""

    limit: int
    order: str
    after: str | None


def cut_of(request: Request, *, limit: int = 20, order: str = "desc") -> Cut:
    """limit, order: where the query names none. Raises: InvalidRequest."""
    return Cut(limit=_limit(request, limit), order=_order(request, order), after=request.args.get("after"))


def page(rows: Sequence[Mapping[str, Any]], has_more: bool) -> HTTPResponse:
    first, last = (rows[0]["id"], rows[-1]["id"]) if rows else (None, None)
    return reply({"object": "list", "data": rows, "first_id": first, "last_id": last, "has_more": has_more})


def _limit(request: Request, default: int) -> int:
    """1..100 (10,000 for files in OpenAI's API; ours pages)."""
    raw = request.args.get("limit")
    if raw is None:
        return default
    if not raw.isdecimal() or len(raw) > 5 or not 1 <= int(raw) <= 10_000:
        raise InvalidRequest("limit must be a whole number from 1 to 10000.", param="limit")
    return min(int(raw), 100)


def _order(request: Request, default: str) -> str:
    order = request.args.get("order", default)
    if order not in {"asc", "desc"}:
        raise InvalidRequest("order must be asc or desc.", param="order")
    return str(order)
