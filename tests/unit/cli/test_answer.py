"""An answer as its events build it up."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.cli.ask import Answer
from gateway.cli.terminal import CommandFailed, printable


def delta(**content: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": content}]})


def citation(passage: int, quote: str) -> dict[str, Any]:
    cited = {
        "file_id": "file-1",
        "filename": "a.md",
        "passage": passage,
        "quote": quote,
        "start": 0,
        "end": 1,
    }
    return {"type": "file_citation", "file_citation": cited}


RECEIPT = {
    "passages": [
        {"n": 1, "filename": "a.md", "file_id": "file-1", "heading": "H", "score": 0.5, "cited": True},
        {"n": 2, "filename": "b.md", "file_id": "file-2", "heading": "", "score": 0.4, "cited": False},
    ]
}


def test_text_grows_by_deltas() -> None:
    answer = Answer()
    assert [answer.take(delta(content=part)) for part in ("a", "", "b")] == ["a", "", "b"]
    assert answer.text == "ab"


def test_quotes_stand_with_their_passage() -> None:
    answer = Answer()
    answer.take(delta(content="x [1]", annotations=[citation(1, "q1"), citation(1, "q2")]))
    answer.take(json.dumps({"choices": [], "usage": {"total_tokens": 1}, "tidegate": {"receipt": RECEIPT}}))
    first, second = answer.sources()
    assert [quote["text"] for quote in first["quotes"]] == ["q1", "q2"]
    assert (second["cited"], second["quotes"]) == (False, [])
    assert answer.usage == {"total_tokens": 1}


def test_sources_come_from_the_annotations_alone_without_a_receipt() -> None:
    answer = Answer()
    answer.take(delta(content="x", annotations=[citation(3, "q"), citation(3, "r")]))
    assert [(source["n"], len(source["quotes"])) for source in answer.sources()] == [(3, 2)]


def test_the_queue_is_told_until_text_comes() -> None:
    answer = Answer()
    answer.take(json.dumps({"choices": [], "tidegate": {"queue": {"position": 4, "eta_s": 2.4}}}))
    assert answer.waiting == "In the queue at place 4, about 2 s"
    answer.take(delta(content="x"))
    assert answer.waiting == ""


def test_done_ends_the_answer() -> None:
    answer = Answer()
    answer.take("[DONE]")
    assert answer.is_done


def test_an_error_event_fails_with_its_message() -> None:
    with pytest.raises(CommandFailed, match=r"^Too busy\.$"):
        Answer().take(json.dumps({"error": {"message": "Too busy.", "code": "capacity"}}))


@pytest.mark.parametrize("data", ["{", "[]", "3", '{"choices": 3}', '{"choices": [3]}', '{"error": "x"}'])
def test_an_event_of_another_shape_fails_plainly(data: str) -> None:
    with pytest.raises(CommandFailed, match="cannot be read"):
        Answer().take(data)


def test_documents_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x07\x9b1m\u202ec\n\td é 🙂") == "a[2Jb1mc\n\td é 🙂"
