"""Questions and searches over a real socket."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.fakes.http_api import FakeApi
from tests.integration.cli.conftest import Run


def test_the_answer_comes_before_its_sources(run: Run) -> None:
    result = run("ask", "What do tides do?")
    assert (result.code, result.err) == (0, "")
    assert result.out == (
        "The tide turns twice. [1]\n\nSources\n[1] docs/tide.md › Tides  0.83\n    “It turns twice a day.”\n"
    )


def test_sources_can_be_left_out(run: Run) -> None:
    assert run("ask", "x", "--no-sources").out == "The tide turns twice. [1]\n"


def test_json_is_one_object_and_nothing_else(run: Run) -> None:
    answer = run("ask", "x", "--json").json()
    assert answer["answer"] == "The tide turns twice. [1]"
    assert [(source["n"], source["cited"]) for source in answer["sources"]] == [(1, True), (2, False)]
    assert answer["sources"][0]["quotes"] == [{"text": "It turns twice a day.", "start": 3, "end": 24}]
    assert answer["usage"]["total_tokens"] == 9
    assert answer["receipt"]["outcome"] == "completed"


def test_model_and_collections_reach_the_service(run: Run, api: FakeApi) -> None:
    store = api.add_store("handbook")
    run("ask", "x", "-m", "deep", "-c", "handbook")
    assert api.chats[0]["model"] == "deep"
    assert api.chats[0]["tidegate"] == {"events": True, "collections": [store]}


def test_a_conversation_is_begun_and_gone_on_with(run: Run, api: FakeApi) -> None:
    begun = run("ask", "What is a tide gate?", "--conversation", "new")
    assert (begun.code, begun.err) == (0, "Conversation: conv_0001\n")
    assert run("ask", "Who designed it?", "--conversation", "conv_0001").err == ""
    assert [chat["tidegate"]["conversation"] for chat in api.chats] == ["conv_0001"] * 2
    assert api.count("POST", "/v1/conversations") == 1


def test_an_unknown_collection_is_named_with_those_there_are(run: Run, api: FakeApi) -> None:
    api.add_store("handbook")
    result = run("ask", "x", "-c", "nix")
    assert result.code == 2
    assert result.err == "tidegate: --collection 'nix' does not exist; there are: handbook.\n"


def test_an_empty_question_is_wrong_usage(run: Run) -> None:
    assert run("ask", "  ").code == 2


def test_an_unknown_model_is_told_in_the_services_words(run: Run) -> None:
    result = run("ask", "x", "-m", "nope")
    assert (result.code, result.err) == (1, "tidegate: The model 'nope' does not exist.\n")


def test_an_error_in_the_stream_follows_what_came(run: Run, api: FakeApi) -> None:
    api.fail_at_token = 1
    result = run("ask", "x")
    assert (result.code, result.out) == (1, "The tide \n")
    assert result.err == "tidegate: The engine stopped.\n"


def test_json_prints_nothing_for_a_broken_answer(run: Run, api: FakeApi) -> None:
    api.fail_at_token = 1
    result = run("ask", "x", "--json")
    assert (result.code, result.out) == (1, "")


def test_an_answer_that_breaks_off_is_not_taken_for_whole(run: Run, api: FakeApi) -> None:
    api.break_at_token = 1
    result = run("ask", "x")
    assert result.code == 1
    assert "ended before the answer did" in result.err


def test_control_codes_of_a_document_are_not_passed_on(run: Run, api: FakeApi) -> None:
    api.tokens = ["a\x1b[31mb"]
    assert run("ask", "x", "--no-sources").out == "a[31mb\n"
    assert "\x1b" not in run("ask", "x", "--json").out


def test_nothing_listening_is_exit_3(bare: Run) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        result = bare("ask", "x", "--url", url)
    assert result.code == 3
    assert result.err == (
        f"tidegate: No tidegate answers at {url}: start one with `tidegate up`, or name another with --url.\n"
    )


def test_a_wrong_key_is_told_with_the_way_out(run: Run, api: FakeApi) -> None:
    api.key = "tg-right"
    result = run("ask", "x", "--key", "tg-wrong")
    assert result.code == 1
    assert "--key or TG_API_KEY" in result.err
    assert run("ask", "x", "--key", "tg-right").code == 0


def test_a_key_can_come_from_the_environment(run: Run, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    api.key = "tg-right"
    monkeypatch.setenv("TG_API_KEY", "tg-right")
    assert run("models").code == 0


def test_a_proxy_does_not_stand_before_loopback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    assert run("models").code == 0


def test_a_server_that_is_no_tidegate_is_called_that(run: Run, api: FakeApi) -> None:
    api.speaks_html = True
    result = run("models")
    assert (result.code, result.err) == (
        1,
        f"tidegate: {api.url} is not a tidegate: it answered /v1/models without JSON.\n",
    )


def fill(run: Run, workplace: Path) -> None:
    (workplace / "a.md").write_text("The harbour and its tides.")
    (workplace / "b.md").write_text("Nothing of note.")
    assert run("ingest", "a.md").code == 0
    assert run("ingest", "b.md", "-c", "other").code == 0


def test_a_search_covers_all_collections(run: Run, workplace: Path) -> None:
    fill(run, workplace)
    result = run("search", "tides")
    assert result.code == 0
    assert result.out.splitlines()[:2] == ["1. a.md › Tides  0.90", "The harbour and its tides."]
    assert "2. b.md › Tides  0.90" in result.out


def test_a_search_can_be_narrowed_and_read_by_programs(run: Run, workplace: Path) -> None:
    fill(run, workplace)
    (passage,) = run("search", "tides", "-c", "other", "-k", "1", "--json").json()
    assert (passage["filename"], passage["text"]) == ("b.md", "Nothing of note.")


def test_a_search_asks_for_all_collections_at_once_and_with_its_filter(
    run: Run, workplace: Path, api: FakeApi
) -> None:
    fill(run, workplace)
    api.requests.clear()
    assert run("search", "tides", "--filter", '{"type": "eq", "key": "lang", "value": "en"}').code == 0
    (search,) = api.searches
    assert search["filters"] == {"type": "eq", "key": "lang", "value": "en"}
    assert len(search["tidegate"]["collections"]) == 1


@pytest.mark.parametrize("given", ["{", "[]", "lang=en"])
def test_a_filter_that_is_no_object_is_wrong_usage(run: Run, api: FakeApi, given: str) -> None:
    result = run("search", "tides", "--filter", given)
    assert result.code == 2
    assert "--filter" in result.err
    assert api.requests == []


def test_a_search_without_any_documents_says_how_to_add_some(run: Run) -> None:
    result = run("search", "tides")
    assert result.code == 1
    assert "tidegate ingest" in result.err


def test_a_search_without_a_match_is_no_error(run: Run, api: FakeApi) -> None:
    api.add_store("empty")
    result = run("search", "tides")
    assert (result.code, result.out) == (0, "No passage found.\n")
    assert run("search", "tides", "--json").json() == []
