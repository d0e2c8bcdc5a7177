"""`make eval`: which files are measured, and by which command line."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perf import evaluate

SERVICE: Any = SimpleNamespace(base_url="http://127.0.0.1:9", key="tg-secret")


def after(line: list[str], option: str) -> str:
    return line[line.index(option) + 1]


def test_files_stand_before_the_dashes_and_options_behind() -> None:
    args, options = evaluate.parsed(["a.json", "b.json", "--", "--model", "deep", "--show-failures", "20"])
    assert args.files == [Path("a.json"), Path("b.json")]
    assert args.models == ["deep"]
    assert options == ["--show-failures", "20"]


@pytest.mark.parametrize("arguments", [[], ["--"]])
def test_nothing_said_is_the_default(arguments: list[str]) -> None:
    args, options = evaluate.parsed(arguments)
    assert (args.files, args.models, args.keep_results, options) == ([], None, False, [])


def test_a_set_that_is_not_there_is_left_out_and_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(evaluate, "SHARED", tmp_path / "xquad_dev.json")
    assert evaluate.files([]) == [evaluate.OWN]
    assert "skipped: xquad_dev.json is not there" in capsys.readouterr().out
    evaluate.SHARED.write_text("{}")
    assert evaluate.files([]) == [evaluate.OWN, evaluate.SHARED]
    assert evaluate.files([Path("x.json")]) == [Path("x.json")]


def test_the_key_is_not_on_the_command_line() -> None:
    line = evaluate.command(SERVICE, evaluate.OWN, "fast", ["--limit", "3"], keep_results=False)
    assert SERVICE.key not in " ".join(line)
    assert line[-2:] == ["--limit", "3"]
    assert after(line, "--url") == SERVICE.base_url


def test_only_results_of_the_own_set_are_kept_in_the_repository() -> None:
    own = evaluate.command(SERVICE, evaluate.OWN, "deep", [], keep_results=True)
    other = evaluate.command(SERVICE, Path("other.json"), "deep", [], keep_results=True)
    assert after(own, "--out") == str(evaluate.KEPT / "documentation-deep.json")
    assert after(other, "--out") == str(evaluate.OUT / "other-deep.json")


def test_the_own_set_is_compared_with_the_kept_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluate, "KEPT", tmp_path)
    assert "--compare" not in evaluate.command(SERVICE, evaluate.OWN, "fast", [], keep_results=False)
    kept = tmp_path / "documentation-fast.json"
    kept.write_text("{}")
    line = evaluate.command(SERVICE, evaluate.OWN, "fast", [], keep_results=False)
    assert after(line, "--compare") == str(kept)
    assert "--compare" not in evaluate.command(SERVICE, evaluate.OWN, "fast", [], keep_results=True)
