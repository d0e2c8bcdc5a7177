"""/v1/conversations: what was said, kept by the service; the shapes of OpenAI's Conversations API."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import clean_text, json_body
from gateway.api.listings import cut_of, page
from gateway.api.memory import no_conversation
from gateway.api.reply import reply
from gateway.api.schemas import ConversationBody, ConversationUpdate, Item, ItemsBody
from gateway.api.services import Services
from gateway.api.transactions import reading, writing
from gateway.errors import NotFound
from gateway.storage import conversations
from gateway.storage.conversations import ConversationRow, MessageRow, NewMessage

_CREATE = msgspec.json.Decoder(ConversationBody)
_UPDATE = msgspec.json.Decoder(ConversationUpdate)
_ITEMS = msgspec.json.Decoder(ItemsBody)


def conversation_object(row: ConversationRow) -> dict[str, object]:
    return {
        "id": row.id,
        "object": "conversation",
        "created_at": row.created_at,
        "metadata": row.metadata,
        "tidegate": {"updated_at": row.updated_at},
    }


def item_object(row: MessageRow) -> dict[str, object]:
    """A message as an item. `tidegate.question`: what was searched for in its place."""
    part: dict[str, Any] = {"type": "input_text", "text": row.text}
    if row.role == "assistant":
        notes = [{"type": note["type"], **note["file_citation"]} for note in row.annotations]
        part = {"type": "output_text", "text": row.text, "annotations": notes, "logprobs": []}
    return {
        "id": row.id,
        "type": "message",
        "role": row.role,
        "status": "completed",
        "content": [part],
        "tidegate": {
            "question": row.question,
            "receipt_id": row.receipt_id,
            "created_at": row.created_at,
        },
    }


async def create(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _CREATE)
    new = _new_messages(body.items or [], services)

    def work(conn: sa.Connection) -> ConversationRow:
        row = conversations.create_conversation(conn, tenant.tenant_id, body.metadata or {})
        limit = services.settings.max_conversation_messages
        conversations.append_messages(conn, tenant.tenant_id, row.id, new, max_messages=limit)
        return row

    return reply(conversation_object(await writing(services, work)))


async def list_all(request: Request, services: Services) -> HTTPResponse:
    """Not in OpenAI's API: the caller's conversations, newest first."""
    tenant = await services.auth.tenant(http_caller(request))
    cut = cut_of(request)
    rows, has_more = await reading(
        services, lambda conn: conversations.list_conversations(conn, tenant.tenant_id, **cut)
    )
    return page([conversation_object(row) for row in rows], has_more)


async def get(request: Request, services: Services, conversation_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(
        services, lambda conn: conversations.get_conversation(conn, tenant.tenant_id, conversation_id)
    )
    if row is None:
        raise no_conversation(conversation_id)
    return reply(conversation_object(row))


async def update(request: Request, services: Services, conversation_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    metadata = json_body(request, _UPDATE).metadata or {}
    row = await writing(
        services,
        lambda conn: conversations.update_conversation(conn, tenant.tenant_id, conversation_id, metadata),
    )
    if row is None:
        raise no_conversation(conversation_id)
    return reply(conversation_object(row))


async def delete(request: Request, services: Services, conversation_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    was_there = await writing(
        services, lambda conn: conversations.delete_conversation(conn, tenant.tenant_id, conversation_id)
    )
    if not was_there:
        raise no_conversation(conversation_id)
    return reply({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


async def list_items(request: Request, services: Services, conversation_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    cut = cut_of(request)
    found = await reading(
        services, lambda conn: conversations.list_messages(conn, tenant.tenant_id, conversation_id, **cut)
    )
    if found is None:
        raise no_conversation(conversation_id)
    rows, has_more = found
    return page([item_object(row) for row in rows], has_more)


async def add_items(request: Request, services: Services, conversation_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    new = _new_messages(json_body(request, _ITEMS).items, services)
    limit = services.settings.max_conversation_messages
    rows = await writing(
        services,
        lambda conn: conversations.append_messages(
            conn, tenant.tenant_id, conversation_id, new, max_messages=limit
        ),
    )
    if rows is None:
        raise no_conversation(conversation_id)
    return page([item_object(row) for row in rows], has_more=False)


async def get_item(request: Request, services: Services, conversation_id: str, item_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(
        services, lambda conn: conversations.get_message(conn, tenant.tenant_id, conversation_id, item_id)
    )
    if row is None:
        raise _no_item(item_id)
    return reply(item_object(row))


async def delete_item(
    request: Request, services: Services, conversation_id: str, item_id: str
) -> HTTPResponse:
    """The conversation afterwards, as OpenAI has it."""
    tenant = await services.auth.tenant(http_caller(request))

    def work(conn: sa.Connection) -> ConversationRow | None:
        if not conversations.delete_message(conn, tenant.tenant_id, conversation_id, item_id):
            return None
        return conversations.get_conversation(conn, tenant.tenant_id, conversation_id)

    row = await writing(services, work)
    if row is None:
        raise _no_item(item_id)
    return reply(conversation_object(row))


def _no_item(item_id: str) -> NotFound:
    return NotFound(f"No such item: {item_id[:100]}.", code="item_not_found", param="item_id")


def _new_messages(items: list[Item], services: Services) -> list[NewMessage]:
    """Raises: InvalidRequest for a text that may not be kept."""
    limit = services.settings.max_question_chars
    return [
        NewMessage(role=item.role, text=clean_text(item.text(), f"items[{at}].content", max_chars=limit))
        for at, item in enumerate(items)
    ]
