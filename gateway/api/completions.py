"""GET, POST and DELETE under /v1/chat/completions: answers that were kept because their request said `store: true`."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import json_body, page_limit, page_order
from gateway.api.files import page, reply
from gateway.api.schemas import CompletionUpdate
from gateway.api.services import Services
from gateway.api.vector_stores import reading, writing
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
    limit, after, model = page_limit(request), request.args.get("after"), request.args.get("model")
    metadata, order = _wanted_metadata(request), _order(request)
    rows, has_more = await reading(
        services,
        lambda conn: completions.list_completions(
            conn, tenant.tenant_id, limit=limit, order=order, after=after, model=model, metadata=metadata
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
    if _order(request) == "desc":
        asked.reverse()
    after, limit = request.args.get("after"), page_limit(request)
    first = 0
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


def _order(request: Request) -> str:
    """Oldest first, unless the caller says otherwise: so OpenAI lists these."""
    return page_order(request) if "order" in request.args else "asc"


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
