"""Requests off the wire: counted before they are parsed, and never accepted or refused by the count alone."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from typing import get_args, get_type_hints

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.grpc_messages import (
    CACHE_USES,
    FINISH_REASONS,
    MAX_OTHER_FIELDS,
    OUTCOMES,
    PRIORITIES,
    ROLES,
    STAGES,
    chat_body,
    check_size,
    receipt_message,
)
from gateway.api.schemas import Extension, Message
from gateway.chat import BEFORE_QUEUE
from gateway.errors import InvalidRequest
from gateway.proto import chat_pb2 as pb
from gateway.types import Outcome, Receipt


def words(struct: type, name: str) -> set[str]:
    """The values of a Literal field, which may also be left out."""
    kind = get_type_hints(struct)[name]
    parts = [get_args(part) for part in get_args(kind) if get_args(part)]
    return set(parts[0] if parts else get_args(kind))


def test_the_enums_have_the_words_of_the_http_api() -> None:
    assert set(ROLES.values()) == words(Message, "role")
    assert set(PRIORITIES.values()) == words(Extension, "priority")
    assert set(CACHE_USES.values()) == words(Extension, "cache")
    assert set(OUTCOMES) == {outcome.value for outcome in Outcome}
    assert set(BEFORE_QUEUE) | {"queued", "generating", "done"} == set(STAGES)
    assert set(FINISH_REASONS) == {"stop", "length", "no_answer"}


def test_the_receipt_message_has_every_field_of_the_receipt() -> None:
    assert [field.name for field in pb.Receipt.DESCRIPTOR.fields] == list(Receipt.__struct_fields__)


def test_times_that_were_not_reached_are_not_set() -> None:
    message = receipt_message(Receipt(id="x", created=1, outcome=Outcome.REJECTED, total_ms=0.0))
    assert message.HasField("total_ms")
    assert not message.HasField("ttft_ms")


@settings(deadline=None)  # a busy machine is no failure
@given(
    st.builds(
        pb.ChatRequest,
        model=st.text(max_size=9),
        messages=st.lists(
            st.builds(pb.Message, role=st.sampled_from([0, 1, 3]), content=st.text(max_size=99)), max_size=9
        ),
        collections=st.lists(st.text(max_size=9), max_size=9),
        seed=st.integers(0, 2**63 - 1),
        temperature=st.floats(),
        stop=st.lists(st.text(max_size=9), max_size=9),
    )
)
def test_whatever_was_built_is_counted_right(request: pb.ChatRequest) -> None:
    data = request.SerializeToString()
    check_size(data, max_messages=9)
    if len(request.messages) > 1:
        with pytest.raises(InvalidRequest) as caught:
            check_size(data, max_messages=len(request.messages) - 1)
        assert caught.value.code == "too_many_messages"


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end_in_a_body_or_a_refusal(data: bytes) -> None:
    with suppress(InvalidRequest):
        chat_body(data, max_messages=10, deadline_s=None)


@settings(deadline=None)  # a busy machine is no failure
@given(st.binary(max_size=200))
def test_what_the_parser_takes_the_count_takes_too(data: bytes) -> None:
    """But for groups, which nobody sends any more."""
    try:
        pb.ChatRequest.FromString(data)
    except DecodeError:
        return
    refusal = None
    try:
        check_size(data, max_messages=10_000)
    except InvalidRequest as error:
        refusal = error.message
    assert refusal is None or "wire type" in refusal


@pytest.mark.parametrize("entry", [b"\x12\x00", b"\x12\x02\x08\x03"], ids=["empty", "user"])
def test_a_million_messages_cost_as_much_as_the_limit(entry: bytes) -> None:
    """Parsing them would take 46 MiB and 70 ms."""
    data = entry * 1_000_000
    tracemalloc.start()
    cpu_s = time.process_time()
    with pytest.raises(InvalidRequest) as caught:
        check_size(data, max_messages=1000)
    cpu_s = time.process_time() - cpu_s
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "too_many_messages"
    assert peak_bytes < 100_000
    assert cpu_s < 0.05


def test_other_entries_are_bounded_too() -> None:
    check_size(b"\x1a\x00" * MAX_OTHER_FIELDS, max_messages=1)
    with pytest.raises(InvalidRequest, match="entries beside"):
        check_size(b"\x1a\x00" * (MAX_OTHER_FIELDS + 1), max_messages=1)


@pytest.mark.parametrize(
    ("left_s", "deadline_ms"), [(None, None), (1.5, 1500), (0.0001, 1), (1e9, 86_400_000)]
)
def test_the_calls_deadline_becomes_the_requests(left_s: float | None, deadline_ms: int | None) -> None:
    data = pb.ChatRequest(
        model="m", messages=[pb.Message(role=pb.ROLE_USER, content="x")]
    ).SerializeToString()
    assert chat_body(data, max_messages=1, deadline_s=left_s).tidegate.deadline_ms == deadline_ms
