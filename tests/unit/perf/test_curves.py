from __future__ import annotations

import json
from pathlib import Path

from perf.curves import draw
from tests.unit.perf.test_points import STREAMED, UNARY


def test_every_report_in_the_folder_gets_a_panel(tmp_path: Path) -> None:
    for name, report in {"small": STREAMED, "embed": UNARY, "reader": STREAMED}.items():
        (tmp_path / f"{name}.csv").write_text(report)
    (tmp_path / "environment.json").write_text(
        json.dumps({"cores": "2", "cpu": "AMD EPYC", "date": "2026-11-24 15:00:00 UTC"})
    )
    picture = draw(tmp_path).read_bytes()
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert picture.startswith(b"\x89PNG")
    assert width > 2 * height  # three panels beside each other
