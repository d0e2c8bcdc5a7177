"""Conversations and kept answers in SQL: order under concurrency, bounds, pages, and one tenant at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.errors import Conflict, InvalidRequest
from gateway.storage import completions, conversations, keys, schema
from gateway.storage.completions import CompletionRow
from gateway.storage.conversations import MessageRow, NewMessage
from gateway.storage.database import Database
from tests.contract.test_storage_tenants import STRANGE

NUM_THREADS = 8
NOTE = {"type": "file_citation", "file_citation": {"file_id": "file-1", "quote": "Größe 🌊", "index": 3}}


def turn(text: str) -> list[NewMessage]:
    return [
        NewMessage(role="user", text=f"{text}?", question=f"{text} in full?"),
        NewMessage(role="assistant", text=f"{text}!", annotations=[NOTE], receipt_id="chatcmpl-1"),
    ]


def append(
    conn: sa.Connection, conversation: str, *texts: str, tenant: str = "default", most: int = 100
) -> list[MessageRow] | None:
    new = [each for text in texts for each in turn(text)]
    return conversations.append_messages(conn, tenant, conversation, new, max_messages=most)


def make(conn: sa.Connection, tenant: str = "default") -> str:
    return conversations.create_conversation(conn, tenant, {"made": "yes"}).id


def texts(conn: sa.Connection, conversation: str, tenant: str = "default") -> list[str]:
    found = conversations.list_messages(conn, tenant, conversation, limit=100, order="asc")
    assert found is not None
    return [row.text for row in found[0]]


def test_what_was_appended_comes_back_as_it_was(conn: sa.Connection) -> None:
    conversation = make(conn)
    written = append(conn, conversation, "one", "two")
    found = conversations.list_messages(conn, "default", conversation, limit=10, order="asc")
    assert found == (written, False)
    first, second = found[0][:2]
    assert (first.ordinal, first.role, first.text, first.question) == (0, "user", "one?", "one in full?")
    assert (second.ordinal, second.annotations, second.receipt_id) == (1, [NOTE], "chatcmpl-1")


def test_turns_appended_at_once_stand_whole_one_after_the_other(database: Database) -> None:
    with database.write() as conn:
        keys.ensure_tenant(conn, "default")
        conversation = make(conn)
    together = threading.Barrier(NUM_THREADS)

    def work(number: int) -> None:
        together.wait(10)
        for step in range(4):
            with database.write() as conn:
                append(conn, conversation, f"{number}.{step}")

    with ThreadPoolExecutor(NUM_THREADS) as threads:
        list(threads.map(work, range(NUM_THREADS)))
    with database.read() as conn:
        said = texts(conn, conversation)
        ordinals = list(conn.execute(sa.select(schema.messages.c.ordinal)).scalars())
    assert sorted(ordinals) == list(range(NUM_THREADS * 4 * 2))
    assert [question[:-1] for question in said[::2]] == [answer[:-1] for answer in said[1::2]]
    for number in range(NUM_THREADS):
        own = [text for text in said[::2] if text.startswith(f"{number}.")]
        assert own == [f"{number}.{step}?" for step in range(4)]


def test_pages_follow_the_conversation_in_both_directions(conn: sa.Connection) -> None:
    conversation = make(conn)
    append(conn, conversation, "one", "two", "three")
    for order in ("asc", "desc"):
        seen: list[int] = []
        after: str | None = None
        while True:
            found = conversations.list_messages(
                conn, "default", conversation, limit=4, order=order, after=after
            )
            assert found is not None
            rows, more = found
            seen += [row.ordinal for row in rows]
            if not more:
                break
            after = rows[-1].id
        assert seen == sorted(range(6), reverse=order == "desc")


def test_the_newest_messages_are_bounded_by_number_and_by_length(conn: sa.Connection) -> None:
    conversation = make(conn)
    append(conn, conversation, "a", "b", "c")

    def newest(**bounds: int) -> tuple[list[str], int]:
        found = conversations.newest_messages(
            conn, "default", conversation, **({"limit": 100, "max_chars": 1000} | bounds)
        )
        assert found is not None
        return [row.text for row in found[0]], found[1]

    assert newest() == (["a?", "a!", "b?", "b!", "c?", "c!"], 6)
    assert newest(limit=3) == (["b!", "c?", "c!"], 6)
    assert newest(max_chars=5) == (["c?", "c!"], 6)
    assert newest(max_chars=0) == ([], 6)


def test_a_full_conversation_takes_all_of_a_turn_or_nothing(conn: sa.Connection) -> None:
    conversation = make(conn)
    append(conn, conversation, "one", most=3)
    with pytest.raises(Conflict, match=r"4 messages; at most 3") as refused:
        append(conn, conversation, "two", most=3)
    assert refused.value.code == "conversation_full"
    assert texts(conn, conversation) == ["one?", "one!"]


def test_a_deleted_message_leaves_the_order_and_its_number_is_not_given_again(conn: sa.Connection) -> None:
    conversation = make(conn)
    rows = append(conn, conversation, "one", "two")
    assert rows is not None
    assert conversations.delete_message(conn, "default", conversation, rows[1].id)
    append(conn, conversation, "three")
    assert texts(conn, conversation) == ["one?", "two?", "two!", "three?", "three!"]
    assert conversations.get_message(conn, "default", conversation, rows[1].id) is None


def test_messages_go_with_their_conversation(conn: sa.Connection) -> None:
    conversation, other = make(conn), make(conn)
    append(conn, conversation, "one")
    append(conn, other, "two")
    assert conversations.delete_conversation(conn, "default", conversation)
    left = conn.execute(sa.select(schema.messages.c.conversation_id)).scalars()
    assert set(left) == {other}


def test_an_answer_moves_the_time_of_the_last_message(conn: sa.Connection) -> None:
    conversation = make(conn)
    conn.execute(sa.update(schema.conversations).values(updated_at=1, created_at=1))
    append(conn, conversation, "one")
    row = conversations.get_conversation(conn, "default", conversation)
    assert row is not None
    assert row.created_at == 1 < row.updated_at
    assert row.metadata == {"made": "yes"}


CALLS: dict[str, Callable[[sa.Connection, str, str, str], Any]] = {
    "get": lambda conn, tenant, it, _: conversations.get_conversation(conn, tenant, it),
    "update": lambda conn, tenant, it, _: conversations.update_conversation(conn, tenant, it, {"x": "y"}),
    "delete": lambda conn, tenant, it, _: conversations.delete_conversation(conn, tenant, it),
    "append": lambda conn, tenant, it, _: append(conn, it, "x", tenant=tenant),
    "newest": lambda conn, tenant, it, _: conversations.newest_messages(
        conn, tenant, it, limit=9, max_chars=99
    ),
    "list": lambda conn, tenant, it, _: conversations.list_messages(conn, tenant, it, limit=9),
    "message": conversations.get_message,
    "drop": conversations.delete_message,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("strange", [*STRANGE.values(), None], ids=[*STRANGE, "foreign"])
def test_a_foreign_and_a_strange_id_are_ones_that_are_not_there(
    conn: sa.Connection, call: str, strange: str | None
) -> None:
    conversation = make(conn)
    rows = append(conn, conversation, "one")
    assert rows is not None
    tenant, wanted = ("default", strange) if strange is not None else ("other", conversation)
    assert not CALLS[call](conn, tenant, wanted, rows[0].id)
    assert texts(conn, conversation) == ["one?", "one!"]
    assert conversations.list_conversations(conn, "other", limit=9) == ([], False)


def row(number: int, **changes: Any) -> CompletionRow:
    fields: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "tenant_id": "default",
        "model": "fast",
        "messages": "[]",
        "body": "{}",
        "metadata": {},
        "created_at": number,
    }
    return CompletionRow(**fields | changes)


def ids(conn: sa.Connection, tenant: str = "default", **wanted: Any) -> list[str]:
    rows, _ = completions.list_completions(conn, tenant, **({"limit": 9} | wanted))
    return [each.id for each in rows]


def test_kept_answers_are_found_by_time_model_and_metadata(conn: sa.Connection) -> None:
    strange_key = "a.b'c ü$[0]\"\\"
    completions.store_completion(conn, row(2, metadata={"k": "v", strange_key: "w"}))
    completions.store_completion(conn, row(1, model="deep", metadata={"k": "other"}))
    completions.store_completion(conn, row(3, tenant_id="other", metadata={"k": "v"}))
    assert ids(conn) == ["chatcmpl-1", "chatcmpl-2"]
    assert ids(conn, order="desc", limit=1) == ["chatcmpl-2"]
    assert ids(conn, after="chatcmpl-1") == ["chatcmpl-2"]
    assert ids(conn, model="deep") == ["chatcmpl-1"]
    assert ids(conn, metadata={"k": "v"}) == ["chatcmpl-2"]
    assert ids(conn, metadata={"k": "v", strange_key: "w"}) == ["chatcmpl-2"]
    assert ids(conn, metadata={"none": "v"}) == []
    assert ids(conn, "other", metadata={"k": "v"}) == ["chatcmpl-3"]


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_no_strange_value_finds_or_breaks_anything(conn: sa.Connection, strange: str) -> None:
    completions.store_completion(conn, row(1))
    assert ids(conn, model=strange) == []
    assert ids(conn, metadata={"k": strange}) == ids(conn, metadata={strange: "v"}) == []
    with pytest.raises(InvalidRequest, match="after"):
        ids(conn, after=strange)
    assert completions.get_completion(conn, "default", strange) is None
    assert not completions.delete_completion(conn, "default", strange)
    assert ids(conn) == ["chatcmpl-1"]


def test_a_foreign_answer_is_one_that_is_not_there(conn: sa.Connection) -> None:
    completions.store_completion(conn, row(1, metadata={"a": "b"}))
    assert completions.get_completion(conn, "other", "chatcmpl-1") is None
    assert completions.update_completion(conn, "other", "chatcmpl-1", {}) is None
    assert not completions.delete_completion(conn, "other", "chatcmpl-1")
    changed = completions.update_completion(conn, "default", "chatcmpl-1", {"c": "d"})
    assert changed == row(1, metadata={"c": "d"})
    assert completions.delete_completion(conn, "default", "chatcmpl-1")
    assert ids(conn) == []
