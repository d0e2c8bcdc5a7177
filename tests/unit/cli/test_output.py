"""What the commands print: settings, search previews, states and spans."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from gateway.cli.processes import Part, count_restarts, part_of
from gateway.cli.search import PREVIEW_CHARS, merge, preview
from gateway.cli.service import settings_markdown, settings_rows
from gateway.cli.status import Report, gauge_sum, span
from gateway.cli.terminal import PLAIN_EVERY_S, PlainProgress
from gateway.settings import Settings


def test_every_setting_has_a_row() -> None:
    rows = settings_rows(Settings())
    assert [row[0] for row in rows] == [f"TIDEGATE_{spec.name.upper()}" for spec in fields(Settings)]
    assert all(row[4] for row in rows)


def test_secrets_are_masked_but_seen_to_be_set() -> None:
    rows = {name: value for name, _, value, *_ in settings_rows(Settings(redis_url="redis://:hush@host"))}
    assert rows["TIDEGATE_REDIS_URL"] == "***"
    assert rows["TIDEGATE_DATABASE_URL"] == ""


def test_the_docs_do_not_depend_on_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings_markdown()
    monkeypatch.setenv("TIDEGATE_PORT", "9999")
    monkeypatch.chdir("/")
    assert settings_markdown() == before
    assert str(Path.cwd() / "var") not in before


def item(score: float, collection: str) -> dict[str, object]:
    text = [{"type": "text", "text": "x"}]
    return {"score": score, "filename": "a", "content": text, "tidegate": {"collection_id": collection}}


def test_the_best_passages_of_all_collections_come_first() -> None:
    pages = [{"data": [item(0.9, "vs_1"), item(0.1, "vs_1")]}, {"data": [item(0.5, "vs_2")]}]
    assert [(passage["collection_id"], passage["score"]) for passage in merge(pages, 2)] == [
        ("vs_1", 0.9),
        ("vs_2", 0.5),
    ]


def test_a_short_text_is_its_own_preview() -> None:
    assert preview("a\n  b", ["b"]) == "a b"


def test_a_preview_shows_the_first_word_searched_for() -> None:
    shown = preview("filler " * 200 + "needle " + "hay " * 200, ["needle"])
    assert "needle" in shown
    assert shown.startswith("… ")
    assert shown.endswith(" …")
    assert len(shown) <= PREVIEW_CHARS + 4


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59, "59s"), (185, "3m 5s"), (9600, "2h 40m"), (442800, "5d 3h")]
)
def test_spans_show_two_units(seconds: int, text: str) -> None:
    assert span(seconds) == text


LOG = """\
2026-01-01 INFO supervisord started with pid 1
2026-01-01 INFO spawned: 'envoy' with pid 2
2026-01-01 INFO supervisord started with pid 10
2026-01-01 INFO spawned: 'envoy' with pid 11
2026-01-01 INFO spawned: 'triton-1' with pid 12
2026-01-01 INFO exited: envoy (exit status 1; not expected)
2026-01-01 INFO spawned: 'envoy' with pid 13
"""


@pytest.mark.parametrize(("name", "restarts"), [("envoy", 1), ("triton-1", 0), ("triton", 0)])
def test_restarts_are_counted_since_the_last_start(name: str, restarts: int) -> None:
    assert count_restarts(LOG, name) == restarts


def test_a_log_without_a_start_tells_no_restarts() -> None:
    assert count_restarts("", "envoy") == -1


def test_a_part_that_is_down_has_no_uptime() -> None:
    process = {"name": "envoy", "statename": "BACKOFF", "pid": 0, "now": 100, "start": 90}
    assert part_of(process, "") == Part("envoy", "BACKOFF", 0, 0, -1)


@pytest.mark.parametrize(
    ("is_ready", "is_there", "states", "expected", "code"),
    [
        (True, True, ["RUNNING"], "ready", 0),
        (True, True, ["RUNNING", "BACKOFF"], "degraded", 1),
        (False, True, [], "degraded", 1),
        (False, False, ["RUNNING"], "degraded", 1),
        (False, False, [], "not running", 3),
    ],
)
def test_a_state_follows_from_what_was_found(
    is_ready: bool, is_there: bool, states: list[str], expected: str, code: int
) -> None:
    report = Report("u", parts=[Part(state, state, 1, 1, 0) for state in states])
    report.settle(is_ready=is_ready, is_there=is_there)
    assert (report.state, report.exit_code) == (expected, code)


def test_gauges_are_summed_over_their_labels() -> None:
    text = '# HELP tidegate_waiting x\ntidegate_waiting{tier="fast"} 2.0\ntidegate_waiting{tier="deep"} 1.0\n'
    assert gauge_sum(text, "tidegate_waiting") == 3
    assert gauge_sum(text, "tidegate_inflight") == 0


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    progress = PlainProgress(lambda: now[0])
    for number, passed_s in enumerate([0.0, PLAIN_EVERY_S - 0.1, 0.2, 1.0, PLAIN_EVERY_S]):
        now[0] += passed_s
        progress.tell(f"line {number}")
    assert capsys.readouterr() == ("", "line 2\nline 4\n")
