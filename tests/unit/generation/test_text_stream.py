"""Text comes in whole characters and depends on the ids alone, at every cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from gateway.generation.text_stream import MAX_HELD_IDS, TextStream
from tests.fakes.small_tokenizers import byte_fallback, byte_level

FAMILIES = {"byte-level": byte_level, "byte fallback": byte_fallback}
TEXTS = [
    "plain",
    "Größe déjà vu",
    "水門は閉じた。",
    "🌊 👩‍🔬 🇩🇪👍🏽",
    "mixed 水🌊é\r\n\ttabs",
    "日本語テキスト" * 20,
]


def pieces_of(tokenizer: Tokenizer, ids: Iterable[int], stop: Sequence[str] = ()) -> list[str]:
    stream = TextStream(tokenizer, stop)
    return [*(stream.feed(token_id) for token_id in ids), stream.finish()]


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param()


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_all_pieces_together_are_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids)
    assert "".join(pieces_of(tokenizer, ids)).strip() == text.strip()


@pytest.mark.parametrize("text", TEXTS, ids=str)
def test_no_piece_ever_holds_a_part_of_a_character(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert all("\ufffd" not in piece for piece in pieces_of(tokenizer, ids))


def test_a_character_waits_for_its_last_byte() -> None:
    ids = byte_level(259).encode("🌊", add_special_tokens=False).ids
    assert len(ids) == 4
    assert pieces_of(byte_level(259), ids) == ["", "", "", "🌊", ""]


@pytest.mark.parametrize("num_bytes", [1, 2, 3])
def test_half_a_character_at_the_end_is_left_out(num_bytes: int) -> None:
    ids = byte_level(259).encode("a🌊", add_special_tokens=False).ids
    assert "".join(pieces_of(byte_level(259), ids[: 1 + num_bytes])) == "a"


def test_letters_that_share_a_token_with_half_a_character_are_not_lost() -> None:
    tokenizer = byte_level()
    token_id = next(
        number
        for number in range(400)
        if (text := tokenizer.decode([number])).endswith("\ufffd") and len(text) > 1
    )
    assert pieces_of(tokenizer, [token_id]) == ["", tokenizer.decode([token_id]).rstrip("\ufffd")]


def test_special_tokens_have_no_text() -> None:
    tokenizer = byte_level()
    ids = [1, *tokenizer.encode("ab").ids, 2, 0, *tokenizer.encode("c").ids]
    assert "".join(pieces_of(tokenizer, ids)) == "abc"


def test_bytes_that_never_make_a_character_hold_nothing_up_for_ever() -> None:
    tokenizer = byte_level(259)
    lead = tokenizer.encode("é").ids[0]
    pieces = pieces_of(tokenizer, [lead] * 1000)
    assert max(len(piece) for piece in pieces) <= MAX_HELD_IDS
    assert "".join(pieces).count("\ufffd") > 900


@given(ids=st.lists(st.integers(0, 399), max_size=40), at=st.integers(0, 40))
def test_random_ids_cut_anywhere_go_on_exactly(ids: list[int], at: int) -> None:
    stop = ["水", "STOP", "gate l"]
    whole = TextStream(byte_level(), stop)
    pieces = [whole.feed(token_id) for token_id in ids]
    again = TextStream(byte_level(), stop)
    for token_id in ids[:at]:
        again.feed(token_id)
    assert [again.feed(token_id) for token_id in ids[at:]] == pieces[at:]
    assert again.finish() == whole.finish()
    assert again.is_stopped == whole.is_stopped


@given(ids=st.lists(st.integers(0, 399), max_size=60))
def test_random_ids_give_what_the_tokenizer_says_of_all_of_them(ids: list[int]) -> None:
    tokenizer = byte_level()
    made = "".join(pieces_of(tokenizer, ids))
    said = tokenizer.decode(ids)
    assert said.startswith(made)
    assert set(said[len(made) :]) <= {"\ufffd"}


# Stop strings


@given(st.data())
def test_a_stop_string_wherever_it_stands_is_cut_off_with_all_behind_it(data: st.DataObject) -> None:
    """Characters come as single tokens or in larger ones, so the borders are everywhere."""
    tokenizer = byte_level(data.draw(st.sampled_from([259, 300, 400])))
    text = data.draw(st.text(st.sampled_from("STOPstop 水🌊é\n"), max_size=30))
    stop = data.draw(st.lists(st.text(st.sampled_from("STOPstop 水🌊"), min_size=1, max_size=6), max_size=3))
    found = [text.find(each) for each in stop if each in text]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream = TextStream(tokenizer, stop)
    made = ""
    for token_id in ids:
        made += stream.feed(token_id)
        if stream.is_stopped:
            break
    made += stream.finish()
    assert stream.is_stopped == bool(found)
    if not found:
        assert made == text
    else:
        assert text.startswith(made)
        assert not any(each in made for each in stop)
        assert any(text.startswith(each, len(made)) for each in stop)


def test_what_may_become_a_stop_string_is_held_back_and_no_more() -> None:
    tokenizer = byte_level(259)
    stream = TextStream(tokenizer, ["STOP"])
    pieces = [stream.feed(token_id) for token_id in tokenizer.encode("aSTxSTO").ids]
    assert pieces == ["a", "", "", "STx", "", "", ""]
    assert stream.finish() == "STO"


def test_a_stop_string_inside_one_token_leaves_what_stands_before_it() -> None:
    tokenizer = byte_level()
    token_id, text = next(
        (number, text)
        for number in range(400)
        if len(text := tokenizer.decode([number])) > 2 and text.isascii()
    )
    stream = TextStream(tokenizer, [text[1:]])
    assert stream.feed(token_id) == text[:1]
    assert stream.is_stopped
    assert stream.feed(token_id) == ""
    assert stream.finish() == ""


def test_the_earliest_stop_string_counts() -> None:
    tokenizer = byte_level(259)
    stream = TextStream(tokenizer, ["cd", "bc"])
    assert "".join(stream.feed(token_id) for token_id in tokenizer.encode("abcd").ids) == "a"
