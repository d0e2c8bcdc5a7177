"""The stored text of a file: what chunks and citations count their characters in.

`GET /v1/files/{id}/content?format=text` is all of it; with `start` and `end` a part; `format=json` a part with what
stands around it, its page and its heading: what the page needs to open a citation at its place.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import NamedTuple

from sanic import HTTPResponse, Request
from sanic.response import ResponseStream, file_stream

from gateway.api.services import Services
from gateway.errors import Conflict, InvalidRequest
from gateway.storage import texts
from gateway.storage.catalog import FileRow
from gateway.storage.texts import Spot

FORMATS = ("bytes", "text", "json")
MAX_SLICE_CHARS = 1_000_000
MAX_CONTEXT_CHARS = 20_000
TEXT_TYPE = "text/plain; charset=utf-8"
# It is a caller's text under our own origin: nothing in it may run, whatever a browser takes it for.
HEADERS = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}
READ_BYTES = 256 * 1024


def content_format(request: Request) -> str:
    """`bytes` (the file as it came), `text` or `json`. Raises: InvalidRequest, also for a range of bytes."""
    wanted = str(request.args.get("format", "bytes"))
    if wanted not in FORMATS:
        raise InvalidRequest(f"format must be one of: {', '.join(FORMATS)}.", param="format")
    for name in ("start", "end", "context"):
        if request.args.get(name) is not None and (
            wanted == "bytes" or (name == "context" and wanted != "json")
        ):
            needed = "json" if name == "context" else "text or json"
            raise InvalidRequest(f"{name} needs format={needed}.", param=name)
    return wanted


async def as_text(request: Request, services: Services, row: FileRow) -> HTTPResponse | ResponseStream:
    """The whole text or a part of it. Raises: InvalidRequest, Conflict."""
    path = services.blobs.text_path(row.tenant_id, row.id)
    start, end = _number(request, "start"), _number(request, "end")
    if start is None and end is None:
        if not await asyncio.to_thread(path.is_file):
            raise _not_read(row)
        return await file_stream(path, headers=HEADERS, mime_type=TEXT_TYPE, chunk_size=READ_BYTES)
    part = await asyncio.to_thread(_part, path, row, start or 0, end, 0)
    return HTTPResponse(part.text.encode(), headers=HEADERS, content_type=TEXT_TYPE)


async def as_object(request: Request, services: Services, row: FileRow) -> dict[str, object]:
    """A part of the text with what stands before and after it. Raises: InvalidRequest, Conflict."""
    start, end = _number(request, "start") or 0, _number(request, "end")
    context = _number(request, "context") or 0
    if context > MAX_CONTEXT_CHARS:
        raise InvalidRequest(f"context must be at most {MAX_CONTEXT_CHARS}.", param="context")
    path = services.blobs.text_path(row.tenant_id, row.id)
    part = await asyncio.to_thread(_part, path, row, start, end, context)

    def look_up() -> tuple[Spot, int]:
        with services.database.read() as conn:
            spot = texts.spot_of(conn, row.tenant_id, row.id, start)
        return spot, services.blobs.page_of(row.tenant_id, row.id, start) or spot.page

    spot, page = await asyncio.to_thread(look_up)
    return {
        "object": "file.text",
        "file_id": row.id,
        "filename": row.filename,
        "num_chars": part.num_chars,
        "start": start,
        "end": start + len(part.text),
        "page": page,
        "heading": spot.heading,
        "before": part.before,
        "text": part.text,
        "after": part.after,
    }


class _Part(NamedTuple):
    before: str
    text: str
    after: str
    num_chars: int  # of the whole text


def _part(path: Path, row: FileRow, start: int, end: int | None, context: int) -> _Part:
    """Characters start..end (None = to the end), `context` on either side. Raises: InvalidRequest, Conflict."""
    if end is not None and end < start:
        raise InvalidRequest(f"end is {end}, before start, which is {start}.", param="end")
    first = max(0, start - context)
    last = start + MAX_SLICE_CHARS + 1 if end is None else min(end, start + MAX_SLICE_CHARS + 1)
    found = texts.read_slice(path, first, last + context)
    if found is None:
        raise _not_read(row)
    until = found.num_chars if end is None else end
    for name, value in (("start", start), ("end", until)):
        if value > found.num_chars:
            raise InvalidRequest(
                f"{name} is {value}, but the text of this file has {found.num_chars} characters.",
                code="out_of_range",
                param=name,
            )
    if until - start > MAX_SLICE_CHARS:
        raise InvalidRequest(
            f"The part has {until - start} characters; at most {MAX_SLICE_CHARS} come at once, all of them come "
            "without start and end.",
            code="out_of_range",
            param="end",
        )
    at, to = start - first, until - first
    return _Part(found.text[:at], found.text[at:to], found.text[to : to + context], found.num_chars)


def _number(request: Request, name: str) -> int | None:
    raw = request.args.get(name)
    if raw is None:
        return None
    if not raw.isascii() or not raw.isdecimal() or len(raw) > 12:
        raise InvalidRequest(f"{name} must be a whole number of characters, from 0.", param=name)
    return int(raw)


def _not_read(row: FileRow) -> Conflict:
    return Conflict(
        f"The text of {row.filename!r} is not there: a file is read when it is attached to a vector store; its status "
        "there says how that went.",
        code="text_not_ready",
        param="file_id",
    )
