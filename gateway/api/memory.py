"""What a chat request finds and leaves behind: the history of its conversation, its own turn, the answer to keep.

A turn is kept whole or not at all: once its answer is complete, before the client is told so. Who leaves earlier, or is
refused, leaves nothing. SQL away at that moment is an error of the request, for the client would count on the turn.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from gateway.api.answers import Transcript, completion
from gateway.api.schemas import ChatBody, ConversationRef
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import completions, conversations
from gateway.storage.completions import CompletionRow
from gateway.storage.conversations import MessageRow, NewMessage
from gateway.types import Receipt, Tenant, Turn

if TYPE_CHECKING:
    from gateway.api.services import Services
    from gateway.chat import ChatRequest

# What of a conversation goes into a request: tiers take far less, and it is read for every one of its questions.
MAX_HISTORY_MESSAGES = 40
MAX_HISTORY_CHARS = 64_000
TURN_MESSAGES = 2  # question and answer

_ROLES = {"developer": "system", "tool": ""}
_encode = msgspec.json.Encoder().encode


def no_conversation(conversation_id: str) -> NotFound:
    return NotFound(
        f"No such conversation: {conversation_id[:100]}.", code="conversation_not_found", param="conversation"
    )


def conversation_id(body: ChatBody) -> str:
    """The one that the request belongs to; empty = none. Raises: InvalidRequest when it names two."""
    reference = body.conversation
    named = reference.id if isinstance(reference, ConversationRef) else reference
    extended = body.tidegate.conversation
    if named and extended and named != extended:
        raise InvalidRequest(
            "conversation and tidegate.conversation name two conversations.", param="tidegate.conversation"
        )
    return named or extended or ""


async def history(services: Services, tenant: Tenant, conversation: str) -> list[Turn]:
    """The newest turns, oldest of them first.

    Raises: NotFound `conversation_not_found`; Conflict `conversation_full` when no further turn fits in.
    """

    def look_up() -> tuple[list[MessageRow], int] | None:
        with services.database.read() as conn:
            return conversations.newest_messages(
                conn,
                tenant.tenant_id,
                conversation,
                limit=MAX_HISTORY_MESSAGES,
                max_chars=MAX_HISTORY_CHARS,
            )

    found = await asyncio.to_thread(look_up)
    if found is None:
        raise no_conversation(conversation)
    rows, num_messages = found
    conversations.check_room(num_messages + TURN_MESSAGES, services.settings.max_conversation_messages)
    turns = [Turn(_ROLES.get(row.role, row.role), row.text, row.question or "") for row in rows]
    return [turn for turn in turns if turn.role and turn.text.strip()]


def is_kept(chat: ChatRequest, body: ChatBody) -> bool:
    """Whether anything of this request is to stay."""
    return bool(chat.conversation or body.store)


async def keep(
    services: Services, chat: ChatRequest, body: ChatBody, receipt: Receipt, answer: Transcript
) -> None:
    """The turn and the completion, in one transaction.

    Raises: UpstreamUnavailable; NotFound when the conversation was deleted meanwhile; Conflict when it is full.
    """
    if not is_kept(chat, body):
        return

    def write() -> None:
        with services.database.write() as conn:
            if chat.conversation:
                _append_turn(conn, services, chat, receipt, answer)
            if body.store:
                completions.store_completion(conn, _completion_row(chat, body, receipt, answer))

    await asyncio.to_thread(write)


def _append_turn(
    conn: sa.Connection, services: Services, chat: ChatRequest, receipt: Receipt, answer: Transcript
) -> None:
    question = NewMessage(role="user", text=chat.question, question=receipt.question or None)
    reply = NewMessage(
        role="assistant",
        text=answer.text.replace("\0", "\ufffd"),
        annotations=answer.annotations,
        receipt_id=receipt.id,
    )
    rows = conversations.append_messages(
        conn,
        chat.tenant.tenant_id,
        chat.conversation,
        [question, reply],
        max_messages=services.settings.max_conversation_messages,
    )
    if rows is None:
        raise no_conversation(chat.conversation)


def _completion_row(chat: ChatRequest, body: ChatBody, receipt: Receipt, answer: Transcript) -> CompletionRow:
    asked = [{"role": message.role, "content": message.text()} for message in body.messages]
    return CompletionRow(
        id=chat.id,
        tenant_id=chat.tenant.tenant_id,
        model=receipt.tier,
        messages=_encode(asked).decode(),
        body=_encode(completion(chat, receipt, answer)).decode(),
        metadata=dict(body.metadata or {}),
        created_at=chat.created,
    )
