"""Labelled files: what is read, what is refused and how that is said, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.cli.eval_labels import LabelledSet, kept, parse, read_json, sample
from gateway.cli.terminal import CommandFailed

PATH = Path("set.json")
DOCUMENTS = [{"id": "a", "title": "A", "text": "The tide turns twice."}, {"id": "b", "text": "The moon."}]
QUESTIONS: list[dict[str, Any]] = [
    {"question": "How often?", "document": "a", "answers": ["twice"]},
    {"question": "Why?", "document": None, "answers": []},
]


def labelled(**changed: Any) -> LabelledSet:
    return parse({"source": "x", "documents": DOCUMENTS, "questions": QUESTIONS} | changed, PATH)


def test_documents_and_questions_are_read_as_they_stand() -> None:
    found = labelled()
    assert [(document.id, document.filename, document.content) for document in found.documents] == [
        ("a", "a.txt", b"The tide turns twice."),
        ("b", "b.txt", b"The moon."),
    ]
    assert [(question.text, question.documents, question.answers) for question in found.questions] == [
        ("How often?", ("a",), ("twice",)),
        ("Why?", (), ()),
    ]
    assert [question.is_answerable for question in found.questions] == [True, False]
    assert found.has_unanswerable


def test_several_documents_may_hold_the_answer() -> None:
    question = {"question": "How often?", "document": ["a", "b"], "answers": ["twice", "2 times", "twice"]}
    (found,) = labelled(questions=[question]).questions
    assert found.documents == ("a", "b")
    assert found.answers == ("twice", "2 times")


def test_a_question_without_answers_is_unanswerable_whatever_document_it_names() -> None:
    (found,) = labelled(questions=[{"question": "Why?", "document": "a"}]).questions
    assert not found.is_answerable


def test_a_document_may_lie_beside_the_labelled_file(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tide.md").write_text("# Tide\n")
    raw = {"documents": [{"id": "t", "path": "../docs/tide.md"}], "questions": [{"question": "x"}]}
    (tmp_path / "sets").mkdir()
    (document,) = parse(raw, tmp_path / "sets" / "a.json").documents
    assert (document.filename, document.content) == ("docs/tide.md", b"# Tide\n")


def test_file_names_are_safe_and_unique() -> None:
    ids = ["../../etc/passwd", "a:b\n", "a?b\n", "x" * 300]
    documents = [{"id": each, "text": "text"} for each in ids]
    names = [
        document.filename
        for document in labelled(documents=documents, questions=[{"question": "x"}]).documents
    ]
    assert names[:3] == ["etc/passwd.txt", "a_b_.txt", "2-a_b_.txt"]
    assert len(names[3]) == 120
    assert names[3].endswith("x.txt")


def test_the_digest_follows_documents_and_questions() -> None:
    same = labelled(source="elsewhere")
    assert same.sha256 == labelled().sha256
    assert labelled(documents=[DOCUMENTS[0] | {"text": "Other."}, DOCUMENTS[1]]).sha256 != same.sha256
    assert labelled(questions=QUESTIONS[:1]).sha256 != same.sha256


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"documents": []}, "has no documents"),
        ({"questions": []}, "has no questions"),
        (
            {"documents": [{"id": "a", "text": 3}]},
            "Expected `str | null`, got `int`, at `.documents[0].text`",
        ),
        ({"documents": [{"text": "x"}]}, "missing required field `id`, at `.documents[0]`"),
        ({"documents": [{"id": " ", "text": "x"}]}, "documents[0].id is empty"),
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, "documents[0].id is not unique: 'a'"),
        ({"documents": [{"id": "a"}]}, "documents[0] ('a') must have either text or path"),
        (
            {"documents": [{"id": "a", "text": "x", "path": "y"}]},
            "documents[0] ('a') must have either text or path",
        ),
        ({"documents": [{"id": "a", "text": " \n"}]}, "documents[0] ('a') is empty"),
        (
            {"documents": [{"id": "a", "path": "no.md"}]},
            "documents[0].path 'no.md' cannot be read: No such file",
        ),
        ({"documents": [{"id": "a", "path": "a\0"}]}, "documents[0].path 'a\\x00' cannot be read"),
        ({"questions": [{"question": " "}]}, "questions[0].question is empty"),
        (
            {"questions": [{"question": "x", "document": "z"}]},
            "questions[0].document 'z' is not among the documents",
        ),
        (
            {"questions": [QUESTIONS[0], {"question": "x", "answers": ["y"]}]},
            "questions[1] has answers but names no document",
        ),
        ({"questions": [QUESTIONS[0] | {"answers": ["a", " ."]}]}, "questions[0].answers[1] is empty"),
        ({"questions": "x"}, "Expected `array`, got `str`, at `.questions`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_named_with_its_place(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CommandFailed) as failed:
        labelled(**changed)
    assert str(failed.value).startswith("set.json: ")
    assert sentence in str(failed.value)
    assert failed.value.exit_code == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"a": 1,\n "b" 2}', "is not JSON: line 2, column 6"),
        (b"[]", "must hold a JSON object"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"[" * 100_000, "is nested too deeply"),
    ],
    ids=["syntax", "shape", "encoding", "depth"],
)
def test_a_file_that_is_no_json_object_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "set.json"
    path.write_bytes(content)
    with pytest.raises(CommandFailed, match=r"^/") as failed:
        read_json(path)
    assert sentence in str(failed.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="No such file"):
        read_json(tmp_path / "no.json")


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Tides",
            "paragraphs": [
                {
                    "context": "The tide turns twice a day.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "How often?",
                            "answers": [{"text": "twice", "answer_start": 15}],
                        },
                        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []},
                    ],
                },
                {"context": "The moon pulls.", "qas": []},
            ],
        }
    ],
}


def test_squad_is_read_with_a_document_for_each_paragraph() -> None:
    found = parse(SQUAD, PATH)
    assert [document.id for document in found.documents] == ["Tides-0-0", "Tides-0-1"]
    assert [(question.text, question.answers) for question in found.questions] == [
        ("How often?", ("twice",)),
        ("Why?", ()),
    ]


@pytest.mark.parametrize(
    "data", [3, [3], [{"title": "x"}], [{"paragraphs": [{"context": "x", "qas": [{}]}]}]]
)
def test_squad_of_another_shape_is_refused(data: Any) -> None:
    with pytest.raises(CommandFailed, match="at `"):
        parse({"data": data}, PATH)


def test_the_seed_alone_decides_what_is_drawn() -> None:
    documents = labelled(
        documents=[{"id": str(n), "text": "x"} for n in range(10)], questions=[{"question": "x"}]
    )
    first, again, other = (kept(documents.documents, 0.5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 5
    questions = documents.questions * 10
    assert sample(questions, None, 0) == questions
    assert len(sample(questions, 4, 0)) == 4


@pytest.mark.parametrize(("share", "num"), [(0.01, 2), (0.95, 1), (0.34, 2)])
def test_something_is_left_out_and_something_stays(share: float, num: int) -> None:
    documents = [*labelled().documents, *parse(SQUAD, PATH).documents][:3]
    assert len(kept(documents, share, 0)) == num
