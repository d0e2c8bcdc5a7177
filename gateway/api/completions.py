"""GET, POST and DELETE under /v1/chat/completions: answers that were kept because their request said `store: true`."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import json_body
from gateway.api.listings import Cut, cut_of, page
from gateway.api.reply import reply
from gateway.api.schemas import CompletionUpdate
from gateway.api.services import Services
from gateway.api.transactions import reading, writing
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import completions
from gateway.storage.completions import CompletionRow

_UPDATE = msgspec.json.Decoder(CompletionUpdate)
_METADATA = re.compile(r"metadata\[(?P<key>.{1,64})\]\Z", re.DOTALL)
MAX_FILTERS = 16


def no_completion(completion_id: str) -> NotFound:
    return NotFound(
        f"No such stored completion: {completion_id[:100]}.",
        code="completion_not_found",
        param="completion_id",
    )


def completion_object(row: CompletionRow) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(row.body)
    return body | {"metadata": row.metadata}


async def list_all(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    cut, model, metadata = _cut(request), request.args.get("model"), _wanted_metadata(request)
    rows, has_more = await reading(
        services,
        lambda conn: completions.list_completions(
            conn, tenant.tenant_id, model=model, metadata=metadata, **cut
        ),
    )
    return page([completion_object(row) for row in rows], has_more)


async def get(request: Request, services: Services, completion_id: str) -> HTTPResponse:
    return reply(completion_object(await _row(request, services, completion_id)))


async def update(request: Request, services: Services, completion_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    metadata = json_body(request, _UPDATE).metadata or {}
    row = await writing(
        services,
        lambda conn: completions.update_completion(conn, tenant.tenant_id, completion_id, metadata),
    )
    if row is None:
        raise no_completion(completion_id)
    return reply(completion_object(row))


async def delete(request: Request, services: Services, completion_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    was_there = await writing(
        services, lambda conn: completions.delete_completion(conn, tenant.tenant_id, completion_id)
    )
    if not was_there:
        raise no_completion(completion_id)
    return reply({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


async def list_messages(request: Request, services: Services, completion_id: str) -> HTTPResponse:
    """What was asked, in order: the request's own messages."""
    row = await _row(request, services, completion_id)
    asked = [
        {"id": f"{row.id}-{at}", "content_parts": None, "refusal": None, **message}
        for at, message in enumerate(msgspec.json.decode(row.messages))
    ]
    cut = _cut(request)
    if cut["order"] == "desc":
        asked.reverse()
    after, limit, first = cut["after"], cut["limit"], 0
    if after is not None:
        first = next((at + 1 for at, message in enumerate(asked) if message["id"] == after), -1)
        if first < 0:
            raise InvalidRequest("after is not the id of an entry of this list.", param="after")
    return page(asked[first : first + limit], has_more=first + limit < len(asked))


async def _row(request: Request, services: Services, completion_id: str) -> CompletionRow:
    """Raises: NotFound, also for another tenant's."""
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(
        services, lambda conn: completions.get_completion(conn, tenant.tenant_id, completion_id)
    )
    if row is None:
        raise no_completion(completion_id)
    return row


def _cut(request: Request) -> Cut:
    """Oldest first, unless the caller says otherwise: so OpenAI lists these."""
    return cut_of(request, order="asc")


def _wanted_metadata(request: Request) -> dict[str, str]:
    """`metadata[key]=value`, each of them. Raises: InvalidRequest."""
    wanted = {}
    for name in request.args:
        if name.startswith("metadata"):
            found = _METADATA.match(name)
            if found is None:
                raise InvalidRequest("metadata is searched for as metadata[key]=value.", param="metadata")
            wanted[found["key"]] = str(request.args.get(name))
    if len(wanted) > MAX_FILTERS:
        raise InvalidRequest(f"metadata has more than {MAX_FILTERS} entries.", param="metadata")
    return wanted
