"""Conversations and their messages. Every function sees one tenant only.

A turn is appended whole, in one transaction that holds the conversation's row: turns of requests that ran at the same
time stand one after the other, in the order in which they ended. Messages keep their ordinals when others go.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from gateway.errors import Conflict
from gateway.storage.ids import new_id
from gateway.storage.match import equals
from gateway.storage.paging import AnySelect, page
from gateway.storage.schema import conversations, messages


class ConversationRow(msgspec.Struct, frozen=True):
    """A row of `conversations`, field by column. Times: unix seconds; updated_at: of the last message."""

    id: str
    tenant_id: str
    metadata: dict[str, Any]
    created_at: int
    updated_at: int


class MessageRow(msgspec.Struct, frozen=True):
    """A row of `messages`, field by column. question: what was searched for in the place of a user's text."""

    id: str
    conversation_id: str
    tenant_id: str
    ordinal: int
    role: str
    text: str
    question: str | None
    annotations: list[dict[str, Any]]
    receipt_id: str | None
    created_at: int


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    role: str
    text: str
    question: str | None = None
    annotations: list[dict[str, Any]] = []
    receipt_id: str | None = None


def create_conversation(conn: sa.Connection, tenant_id: str, metadata: dict[str, Any]) -> ConversationRow:
    now = int(time.time())
    row = ConversationRow(new_id("conv_"), tenant_id, metadata, now, now)
    conn.execute(sa.insert(conversations), msgspec.structs.asdict(row))
    return row


def get_conversation(conn: sa.Connection, tenant_id: str, conversation_id: str) -> ConversationRow | None:
    row = conn.execute(sa.select(conversations).where(_is(tenant_id, conversation_id))).first()
    return ConversationRow(*row) if row else None


def list_conversations(
    conn: sa.Connection, tenant_id: str, *, limit: int, order: str = "desc", after: str | None = None
) -> tuple[list[ConversationRow], bool]:
    """One page by time of creation, and whether more follow. Raises: InvalidRequest for an unknown cursor."""
    rows, more = page(
        conn,
        sa.select(conversations).where(conversations.c.tenant_id == tenant_id),
        created_at=conversations.c.created_at,
        key=conversations.c.id,
        limit=limit,
        order=order,
        after=after,
    )
    return [ConversationRow(*row) for row in rows], more


def update_conversation(
    conn: sa.Connection, tenant_id: str, conversation_id: str, metadata: dict[str, Any]
) -> ConversationRow | None:
    """The row afterwards, or None when there is no such conversation."""
    conn.execute(
        sa.update(conversations).where(_is(tenant_id, conversation_id)).values({"metadata": metadata})
    )
    return get_conversation(conn, tenant_id, conversation_id)


def delete_conversation(conn: sa.Connection, tenant_id: str, conversation_id: str) -> bool:
    """Its messages go with it."""
    return conn.execute(sa.delete(conversations).where(_is(tenant_id, conversation_id))).rowcount > 0


def append_messages(
    conn: sa.Connection, tenant_id: str, conversation_id: str, new: Sequence[NewMessage], *, max_messages: int
) -> list[MessageRow] | None:
    """All of them, in order, behind those that are there; None when there is no such conversation.

    Raises: Conflict `conversation_full` when it would hold more than max_messages.
    """
    lock = sa.select(conversations.c.id).where(_is(tenant_id, conversation_id)).with_for_update()
    if conn.execute(lock).first() is None:
        return None
    last, count = _last_and_count(conn, conversation_id)
    check_room(count + len(new), max_messages)
    now = int(time.time())
    rows = [
        MessageRow(
            id=new_id("msg_"),
            conversation_id=conversation_id,
            tenant_id=tenant_id,
            ordinal=last + 1 + at,
            role=each.role,
            text=each.text,
            question=each.question,
            annotations=each.annotations,
            receipt_id=each.receipt_id,
            created_at=now,
        )
        for at, each in enumerate(new)
    ]
    if rows:
        conn.execute(sa.insert(messages), [msgspec.structs.asdict(row) for row in rows])
        conn.execute(
            sa.update(conversations).where(conversations.c.id == conversation_id).values(updated_at=now)
        )
    return rows


def check_room(num_messages: int, max_messages: int) -> None:
    """Raises: Conflict `conversation_full`."""
    if num_messages > max_messages:
        raise Conflict(
            f"The conversation would hold {num_messages} messages; at most {max_messages} fit "
            "(TIDEGATE_MAX_CONVERSATION_MESSAGES). Begin a new one, or delete items.",
            code="conversation_full",
            param="conversation",
        )


def newest_messages(
    conn: sa.Connection, tenant_id: str, conversation_id: str, *, limit: int, max_chars: int
) -> tuple[list[MessageRow], int] | None:
    """The newest messages, oldest of them first, and how many there are in all; None without such a conversation.

    max_chars: of all their texts together; what does not fit is left out whole, from the oldest on.
    """
    if get_conversation(conn, tenant_id, conversation_id) is None:
        return None
    query = _of(tenant_id, conversation_id).order_by(messages.c.ordinal.desc()).limit(limit)
    kept: list[MessageRow] = []
    for found in conn.execute(query):
        row = MessageRow(*found)
        max_chars -= len(row.text)
        if max_chars < 0:
            break
        kept.append(row)
    return kept[::-1], _last_and_count(conn, conversation_id)[1]


def list_messages(
    conn: sa.Connection,
    tenant_id: str,
    conversation_id: str,
    *,
    limit: int,
    order: str = "desc",
    after: str | None = None,
) -> tuple[list[MessageRow], bool] | None:
    """One page in the order of the conversation; None when there is no such conversation.

    Raises: InvalidRequest for an unknown cursor.
    """
    if get_conversation(conn, tenant_id, conversation_id) is None:
        return None
    rows, more = page(
        conn,
        _of(tenant_id, conversation_id),
        created_at=messages.c.ordinal,
        key=messages.c.id,
        limit=limit,
        order=order,
        after=after,
    )
    return [MessageRow(*row) for row in rows], more


def get_message(
    conn: sa.Connection, tenant_id: str, conversation_id: str, message_id: str
) -> MessageRow | None:
    query = _of(tenant_id, conversation_id).where(equals(messages.c.id, message_id))
    row = conn.execute(query).first()
    return MessageRow(*row) if row else None


def delete_message(conn: sa.Connection, tenant_id: str, conversation_id: str, message_id: str) -> bool:
    query = sa.delete(messages).where(
        messages.c.tenant_id == tenant_id,
        equals(messages.c.conversation_id, conversation_id),
        equals(messages.c.id, message_id),
    )
    return conn.execute(query).rowcount > 0


def _last_and_count(conn: sa.Connection, conversation_id: str) -> tuple[int, int]:
    """The highest ordinal (-1 = none) and the number of messages. The id comes from a read bound to the tenant."""
    query = sa.select(sa.func.max(messages.c.ordinal), sa.func.count()).where(
        messages.c.conversation_id == conversation_id
    )
    last, count = conn.execute(query).one()
    return -1 if last is None else int(last), int(count)


def _of(tenant_id: str, conversation_id: str) -> AnySelect:
    return sa.select(messages).where(
        messages.c.tenant_id == tenant_id, equals(messages.c.conversation_id, conversation_id)
    )


def _is(tenant_id: str, conversation_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(conversations.c.tenant_id == tenant_id, equals(conversations.c.id, conversation_id))
