from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from perf.parts import measure_parts


def test_a_part_that_fails_leaves_the_others_their_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Any:
        raise RuntimeError("no such library")

    out = tmp_path / "found.json"
    measure_parts({"first": broken, "second": lambda: {"figure": 2}}, out, device="cpu")
    found = json.loads(out.read_text())
    assert found["device"] == "cpu"
    assert found["first"] == {"error": "RuntimeError: no such library"}
    assert found["second"] == {"figure": 2}
    assert found["first_took_s"] >= 0
    assert json.loads(capsys.readouterr().out) == found
