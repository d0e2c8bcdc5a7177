"""What is read back is exactly what was written, for that key, or a miss with a reason."""

from __future__ import annotations

import contextlib
import zlib

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.caching import entry as entries
from gateway.caching.entry import Entry, EntryRefused, Piece, agreement, decode, encode, same_evidence
from gateway.caching.key import Key
from gateway.types import Citation, Passage
from tests.fakes.engines import PASSAGES, passage

KEY = Key("acme", "s" * 32, "d" * 32)


def make(**changes: object) -> Entry:
    made = Entry(
        tenant_id=KEY.tenant_id,
        scope=KEY.scope,
        digest=KEY.digest,
        question="What is a tide gate?",
        pieces=[Piece("A gate. [1]", [Citation(passage=1, start=0, end=7, text="A gate.")])],
        passages=list(PASSAGES),
        tier="fast",
        edition="1",
        finish_reason="stop",
        prompt_tokens=7,
        completion_tokens=5,
        in_prompt=[1, 2],
        epoch=3,
        created=1.0,
        expires=2.0,
        vector=b"\0\0\0\0" * 4,
    )
    return msgspec.structs.replace(made, **changes)


def reason(data: bytes, key: Key = KEY) -> str:
    with pytest.raises(EntryRefused) as refused:
        decode(data, key)
    return refused.value.reason


TEXT = st.text(max_size=60)
PASSAGE = st.builds(
    Passage,
    chunk_id=st.integers(0, 2**62),
    collection_id=TEXT,
    file_id=TEXT,
    filename=TEXT,
    ordinal=st.integers(0, 9),
    heading=TEXT,
    start=st.integers(0, 99),
    end=st.integers(0, 99),
    text=TEXT,
    chunk_ids=st.lists(st.integers(0, 2**62), max_size=3),
    score=st.floats(-1, 1),
)


@settings(deadline=None)
@given(question=TEXT, passages=st.lists(PASSAGE, min_size=2, max_size=4), text=TEXT)
def test_whatever_was_written_is_read_back(question: str, passages: list[Passage], text: str) -> None:
    written = make(question=question, passages=passages, pieces=[Piece(text)])
    assert decode(encode(written), KEY) == written


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200))
def test_garbage_is_refused_and_nothing_else_happens(data: bytes) -> None:
    for candidate in (data, encode(make())[:4] + data, entries.MAGIC + data):
        with pytest.raises(EntryRefused):
            decode(candidate, KEY)


@settings(deadline=None, max_examples=300)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_never_another_answer(at: int, value: int) -> None:
    data = bytearray(encode(make()))
    data[at % len(data)] = value
    with contextlib.suppress(EntryRefused):
        assert decode(bytes(data), KEY) == make()


def test_each_refusal_says_why() -> None:
    good = encode(make())
    assert reason(b"\x80\x04K\x01.") == "foreign"  # a pickle
    assert reason(entries.MAGIC + b"\x63" + good[4:]) == "version"
    assert reason(good[:-5]) == "damaged"
    assert reason(good[:4] + zlib.compress(b"\x81")) == "damaged"
    assert reason(good, Key("rival", KEY.scope, KEY.digest)) == "other_key"
    assert reason(good, Key(KEY.tenant_id, KEY.scope, "e" * 32)) == "other_key"


def test_a_bomb_is_not_unpacked() -> None:
    bomb = entries.MAGIC + bytes([entries.VERSION]) + zlib.compress(b"\0" * (entries.MAX_BYTES * 8))
    assert len(bomb) < 100_000
    assert reason(bomb) == "too_large"


def test_a_citation_of_no_passage_is_no_entry() -> None:
    assert reason(encode(make(passages=PASSAGES[:1], in_prompt=[2]))) == "damaged"
    quote = Piece("x", [Citation(passage=3, start=0, end=1, text="x")])
    assert reason(encode(make(pieces=[quote]))) == "damaged"


def test_evidence_is_the_same_whatever_its_order_and_another_at_another_version() -> None:
    first, second = PASSAGES
    assert same_evidence([first, second], [second, first])
    assert not same_evidence([first, second], [first])
    newer = msgspec.structs.replace(first, chunk_id=77)
    assert not same_evidence([first], [newer])
    elsewhere = msgspec.structs.replace(first, file_id="file-other")
    assert not same_evidence([first], [elsewhere])
    assert agreement([first, second], [first, passage(9, "x")]) == pytest.approx(1 / 3)
    assert agreement([], []) == 1.0
