"""Answers to questions of several parts, and quotes that open with a pronoun."""

from __future__ import annotations

import msgspec
import pytest

from gateway.generation.extractive import MAX_PARTS, Answer, ReaderParams, answer
from gateway.generation.wire import decode_request
from gateway.types import Passage

BRIDGE = (
    "The iron bridge was laid over the Lune. It was designed by Anna Berg. Ships of 40 metres pass below."
)
PARK = "The park has two ponds. Dogs must be kept on a lead."


def passage(text: str, start: int = 0) -> Passage:
    return Passage(
        chunk_id=1, collection_id="c", file_id="f", filename="f.md", ordinal=0, heading="",
        start=start, end=start + len(text), text=text, score=0.6,
    )  # fmt: skip


def ranked(text: str, chance: float) -> Passage:
    return msgspec.structs.replace(passage(text), rank_score=chance)


def ask(question: str, *parts: str, max_tokens: int = 0, max_sentences: int = 3) -> Answer:
    params = ReaderParams(parts=list(parts), max_tokens=max_tokens, max_sentences=max_sentences)
    return answer(question, [passage(BRIDGE, 50), passage(PARK)], params)


def test_each_part_gets_a_sentence_in_the_order_of_the_parts() -> None:
    found = ask("both", "How many ponds does the park have?", "Who designed the iron bridge?")
    assert found.citations[0].text == "The park has two ponds."
    assert any("Anna Berg" in citation.text for citation in found.citations[1:])
    assert len({citation.text for citation in found.citations}) == len(found.citations) <= 3


def test_a_part_without_evidence_is_left_out() -> None:
    found = ask("both", "Who piloted the zeppelin?", "How many ponds does the park have?")
    assert found.answered
    assert all(citation.passage == 2 for citation in found.citations)


def test_no_part_with_evidence_is_no_answer() -> None:
    assert not ask("both", "Who piloted the zeppelin?", "Why is krypton rare?").answered


WHOLE = "Who designed the iron bridge?"


def test_what_only_follows_a_name_adds_one_sentence_behind_the_questions_own() -> None:
    found = ask(WHOLE, WHOLE, "How many ponds does the park have?")
    assert "Anna Berg" in found.citations[0].text
    assert [citation.text for citation in found.citations if citation.passage == 2] == [
        "The park has two ponds."
    ]


def test_what_only_follows_a_name_must_be_well_supported_to_answer_alone() -> None:
    unknown = "Who piloted the zeppelin?"
    weak = ask(unknown, unknown, "Which lead do swans have?")
    assert not weak.answered
    assert ask(unknown, unknown, "How many ponds does the park have?").answered


def test_what_follows_takes_no_room_from_a_question_that_is_well_answered() -> None:
    text = "Anna Berg designed the iron bridge. Anna Berg designed the iron bridge again in 1920. "
    text += "The iron bridge was designed anew by Anna Berg in 1944."
    passages = [passage(text), passage(PARK)]
    params = ReaderParams(parts=[WHOLE, "How many ponds does the park have?"])
    alone = answer(WHOLE, passages, ReaderParams())
    assert len(alone.citations) == 3
    assert answer(WHOLE, passages, params).citations == alone.citations


def test_passages_of_a_further_search_do_not_make_the_question_itself_answerable() -> None:
    """Their odds are of answering that search's question."""
    asked = "Which zeppelin did the park keep?"
    first = ranked(PARK, 0.02)
    added = ranked("The zeppelin was flown over Bremen.", 0.9)
    params = ReaderParams(parts=[asked, "Who piloted krypton?"])
    assert answer(asked, [first, added], ReaderParams()).answered
    assert answer(asked, [first, added], params).answered is False


def test_one_sentence_may_be_all_there_is_room_for() -> None:
    found = ask("both", "How many ponds does the park have?", "Who designed the bridge?", max_sentences=1)
    assert len(found.citations) == 1


def test_more_parts_than_may_be_are_refused() -> None:
    params = b'{"parts": [' + b",".join([b'"x"'] * (MAX_PARTS + 1)) + b"]}"
    with pytest.raises(ValueError, match="params: "):
        decode_request(b"Why?", b"[]", params)


def test_a_pronoun_is_made_clear_in_our_own_words_and_the_citation_stays_exact() -> None:
    found = ask("Who designed the iron bridge?", max_sentences=1)
    assert found.shown == ["(iron bridge) It was designed by Anna Berg."]
    (citation,) = found.citations
    assert citation.text == "It was designed by Anna Berg."
    assert BRIDGE[citation.start - 50 : citation.end - 50] == citation.text


def test_no_name_is_put_before_a_quote_that_leaves_no_room_for_it() -> None:
    found = ask("Who designed the iron bridge?", max_tokens=8, max_sentences=1)
    assert found.shown[0].startswith("It was designed")
