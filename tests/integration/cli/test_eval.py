"""`tidegate eval` over a real socket, against an API whose answers are known."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import eval_run
from gateway.cli.client import Api, Target
from gateway.cli.eval_labels import parse
from gateway.cli.eval_run import Options, measure
from gateway.cli.eval_score import ALL, KEPT, Row
from gateway.cli.terminal import CommandFailed
from tests.fakes.http_api import FakeApi, Reply
from tests.integration.cli.conftest import Run, spawn

__all__ = ["spawn"]

SET = {
    "documents": [
        {"id": "tide", "text": "The tide turns twice a day. It is slow."},
        {"id": "moon", "text": "The moon pulls the sea."},
        {"id": "sun", "text": "The sun pulls less."},
        {"id": "wind", "text": "The wind pushes."},
    ],
    "questions": [
        {"question": "How often does the tide turn?", "document": "tide", "answers": ["twice"]},
        {"question": "What pulls the sea?", "document": "moon", "answers": ["The moon"]},
        {"question": "Who?", "document": None, "answers": []},
    ],
}


def answers(api: FakeApi) -> Callable[[dict[str, Any]], Reply]:
    """Quotes the first document of the collection that shares a long word with the question, else refuses."""

    def reply(body: dict[str, Any]) -> Reply:
        question = body["messages"][-1]["content"].lower()
        (store,) = body["tidegate"]["collections"]
        texts = {file_id: api.contents[file_id].decode() for file_id in api.attached[store]}
        found = [each for each, text in texts.items() if words(text) & words(question)]
        passages = [
            {"n": n, "file_id": each, "filename": "x", "text": texts[each], "score": 0.5}
            for n, each in enumerate([*found, *(texts.keys() - found)], 1)
        ]
        receipt = {"id": "r", "tier": "fast", "cache": "off", "passages": passages}
        if not found:
            return Reply(["I do not know."], receipt | {"finish_reason": "no_answer"})
        quote = texts[found[0]].partition(".")[0] + "."
        cited = {
            "file_id": found[0],
            "filename": "x",
            "passage": 1,
            "quote": quote,
            "index": 9,
            "start": 0,
            "end": 1,
        }
        return Reply([f"{quote} ", "[1]"], receipt | {"finish_reason": "stop"}, [cited])

    return reply


def words(text: str) -> set[str]:
    return {word.strip(".?").lower() for word in text.split() if len(word) > 3} - {"pulls", "does"}


@pytest.fixture
def api(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    monkeypatch.setattr(eval_run, "NUM_WARM", 0)
    monkeypatch.setattr(eval_run, "SETTLE_S", 0.0)  # this API shows a file as soon as it says so
    api.reply = answers(api)
    return api


@pytest.fixture
def labelled(workplace: Path) -> Path:
    path = workplace / "set.json"
    path.write_text(json.dumps(SET))
    return path


async def rows_of(api: FakeApi, **options: Any) -> list[Row]:
    async with Api(Target(api.url)) as client:
        labelled = parse(SET, Path("set.json"))
        rows, _ = await measure(client, labelled, Options(**options), lambda *_: None)
    return rows


async def test_every_question_gets_a_row_in_order(api: FakeApi) -> None:
    tide, moon, nobody = await rows_of(api, model="deep", concurrency=3)
    assert [row.question for row in (tide, moon, nobody)] == [each["question"] for each in SET["questions"]]
    assert (tide.answer, tide.first) == ("The tide turns twice a day. [1]", "The tide turns twice a day.")
    assert tide.in_first
    assert tide.in_answer
    assert (tide.tier, tide.receipt) == ("fast", "r")
    assert 0 < tide.ttft_ms <= tide.latency_ms
    assert [(mark.document, mark.is_right, mark.holds) for mark in tide.cited] == [("tide", True, True)]
    assert [passage.document for passage in moon.passages[:1]] == ["moon"]
    assert len(moon.passages) == 4
    assert (nobody.is_answerable, nobody.refused) == (False, True)
    assert {chat["model"] for chat in api.chats} == {"deep"}


async def test_documents_are_uploaded_once_and_nothing_stays(api: FakeApi) -> None:
    await rows_of(api, leave_out=0.5)
    assert api.count("POST", "/v1/files") == 4
    assert api.count("POST", "/v1/vector_stores") == 2
    assert (api.files, api.stores) == ({}, {})


async def test_questions_of_documents_that_are_left_out_have_no_answer(api: FakeApi) -> None:
    rows = await rows_of(api, leave_out=0.75, seed=1)
    everything, part = rows[:3], rows[3:]
    assert [row.phase for row in everything] == [ALL] * 3
    assert [row.phase for row in part] == [KEPT] * 3
    assert sum(row.is_answerable for row in part) < 2
    assert all(row.refused is not row.is_answerable for row in part)
    assert {len(row.passages) for row in part} == {1}


async def test_each_draw_leaves_other_documents_out_and_nothing_is_uploaded_again(api: FakeApi) -> None:
    rows = await rows_of(api, leave_out=0.5, draws=6)
    left_out = {
        frozenset(row.question for row in rows if row.phase == KEPT and row.draw == draw and row.refused)
        for draw in range(6)
    }
    assert len(left_out) > 1
    assert api.count("POST", "/v1/files") == 4
    assert (api.files, api.stores) == ({}, {})


async def test_only_so_many_questions_are_asked(api: FakeApi) -> None:
    assert len(await rows_of(api, limit=2)) == 2
    assert len(api.chats) == 2


async def test_a_service_without_room_is_asked_again(api: FakeApi) -> None:
    refusals = iter([429, 503])
    answer = answers(api)

    def sometimes(body: dict[str, Any]) -> Reply:
        status = next(refusals, 200)
        return Reply([], status=status) if status != 200 else answer(body)

    api.reply = sometimes
    assert [row.error for row in await rows_of(api)] == ["", "", ""]
    assert len(api.chats) == 5


async def test_a_question_that_fails_is_a_row_with_its_reason(api: FakeApi) -> None:
    answer = answers(api)
    api.reply = lambda body: Reply([], status=500) if "sea" in str(body) else answer(body)
    tide, moon, _ = await rows_of(api)
    assert tide.error == ""
    assert moon.error.startswith("No room")
    assert (moon.refused, moon.in_answer, moon.passages, moon.latency_ms) == (False, False, [], -1.0)


async def test_an_answer_that_breaks_off_counts_for_nothing(api: FakeApi) -> None:
    api.break_at_token = 1
    tide, *_ = await rows_of(api)
    assert "ended before the answer did" in tide.error
    assert (tide.answer, tide.in_answer, tide.cited) == ("", False, [])


async def test_an_unknown_model_stops_the_run_and_leaves_nothing(api: FakeApi) -> None:
    with pytest.raises(CommandFailed, match="The model 'nope' does not exist"):
        await rows_of(api, model="nope")
    assert len(api.chats) == 1
    assert (api.files, api.stores) == ({}, {})


async def test_a_document_that_cannot_be_indexed_stops_the_run_and_leaves_nothing(api: FakeApi) -> None:
    api.unreadable = frozenset({b"The wind pushes."})
    with pytest.raises(CommandFailed, match=r"1 document failed: wind.txt: This is not text\."):
        await rows_of(api)
    assert api.chats == []
    assert (api.files, api.stores) == ({}, {})


def test_the_table_is_printed_and_the_result_kept(run: Run, api: FakeApi, labelled: Path) -> None:
    result = run("eval", str(labelled), "--out", "result.json", "--show-failures", "5")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("set: 3 questions; answered by fast.\n")
    assert "recall_at_1" in result.out
    assert "abstained " in result.out
    assert "abstained_left_out" not in result.out  # the file has a question without an answer
    kept = json.loads((labelled.parent / "result.json").read_text())
    assert kept["metrics"]["recall_at_1"] == kept["metrics"]["citation_precision"] == 1.0
    assert kept["environment"]["service"] == "9.9"
    assert api.url not in json.dumps(kept)


def test_half_of_the_documents_are_left_out_where_every_question_has_an_answer(
    run: Run, labelled: Path
) -> None:
    labelled.write_text(json.dumps(SET | {"questions": SET["questions"][:2]}))
    result = run("eval", str(labelled), "--json", "--draws", "2").json()
    assert (result["options"]["leave_out"], result["options"]["draws"]) == (0.5, 2)
    asked = [(row["phase"], row.get("draw", 0)) for row in result["rows"]]
    assert asked == [(ALL, 0)] * 2 + [(KEPT, 0)] * 2 + [(KEPT, 1)] * 2


def test_json_is_one_object_and_nothing_else(run: Run, labelled: Path) -> None:
    result = run("eval", str(labelled), "--json").json()
    assert len(result["rows"]) == 3
    assert result["options"] == {
        "model": "auto",
        "concurrency": 1,
        "leave_out": 0.0,
        "draws": 3,
        "seed": 0,
        "limit": None,
    }


def test_two_results_are_compared_without_asking(run: Run, api: FakeApi, labelled: Path) -> None:
    run("eval", str(labelled), "--out", "old.json")
    asked = len(api.requests)
    result = run("eval", "old.json", "--compare", "old.json")
    assert result.code == 0
    assert "gained" in result.out
    assert len(api.requests) == asked


def test_a_broken_limit_is_exit_1(run: Run, labelled: Path) -> None:
    run("eval", str(labelled), "--out", "old.json")
    assert run("eval", "old.json", "--fail-under", "recall_at_1=1", "--fail-over", "refused=0").code == 0
    result = run("eval", "old.json", "--fail-under", "latency_ms_p50=100000")
    assert result.code == 1
    assert "below 100000" in result.err


def test_failed_questions_are_exit_1(run: Run, api: FakeApi, labelled: Path) -> None:
    api.reply = lambda _: Reply([], status=500)
    result = run("eval", str(labelled))
    assert result.code == 1
    assert "3 of 3 questions failed, the first: No room" in result.err


def test_an_answer_of_another_tier_is_exit_1_where_none_may_stand_in(run: Run, labelled: Path) -> None:
    run("eval", str(labelled), "--model", "large", "--out", "old.json")  # the API's answers are of `fast`
    for command in (("eval", str(labelled), "--model", "large"), ("eval", "old.json")):
        assert run(*command).code == 0
        result = run(*command, "--no-fallback")
        assert result.code == 1
        assert "3 of 3 questions were answered by fast, not by large." in result.err
    assert run("eval", str(labelled), "--model", "fast", "--no-fallback").code == 0


def test_a_tier_that_sleeps_is_asked_until_it_answers_itself(
    run: Run, api: FakeApi, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_run, "WAKE_EVERY_S", 0.01)
    answer, tiers = answers(api), iter(["deep", "", "fast"])

    def asleep(body: dict[str, Any]) -> Reply:
        reply, tier = answer(body), next(tiers, "large")
        return Reply(
            reply.tokens, reply.receipt | {"tier": tier}, reply.citations, status=200 if tier else 500
        )

    api.reply = asleep
    result = run("eval", str(labelled), "--model", "large", "--no-fallback", "--wake", "30")
    assert (result.code, len(api.chats)) == (0, 3 + 1 + 3)


def test_a_tier_that_does_not_wake_is_told_and_nothing_stays(run: Run, api: FakeApi, labelled: Path) -> None:
    result = run("eval", str(labelled), "--model", "large", "--wake", "0.05")
    assert result.code == 1
    assert "large did not answer within 0.05 s: the last answer is of fast." in result.err
    assert (api.files, api.stores) == ({}, {})


@pytest.mark.parametrize(
    "args",
    [
        ("no.json",),
        ("set.json", "--fail-under", "x"),
        ("set.json", "--compare", "set.json"),
        ("set.json", "--no-fallback"),
        ("set.json", "--wake", "1"),
    ],
    ids=str,
)
def test_wrong_usage_is_told_before_anything_is_sent(
    run: Run, api: FakeApi, labelled: Path, args: tuple[str, ...]
) -> None:
    assert run("eval", *args).code == 2
    assert api.requests == []


def test_collections_can_be_kept(run: Run, api: FakeApi, labelled: Path) -> None:
    assert run("eval", str(labelled), "--keep").code == 0
    assert len(api.files) == 4
    (store,) = api.stores.values()
    assert store["name"].startswith("eval set ")


def test_ctrl_c_takes_everything_away(spawn: Any, api: FakeApi, labelled: Path) -> None:
    api.reply = None
    api.token_delay_s = 0.05
    api.tokens = ["a "] * 1000
    process = spawn("eval", str(labelled), "--url", api.url)
    assert api.first_token_sent.wait(20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert (api.files, api.stores) == ({}, {})


def test_ctrl_c_while_indexing_takes_everything_away(spawn: Any, api: FakeApi, labelled: Path) -> None:
    api.stuck = True
    process = spawn("eval", str(labelled), "--url", api.url)
    deadline = time.monotonic() + 20
    while not any(method == "GET" and path.endswith("/files") for method, path in list(api.requests)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert (api.files, api.stores) == ({}, {})
