"""When `make run` makes the conversion's environment, and when not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.settings import load_settings
from gateway.supervise.conversion import needs_environment
from tests.fakes.small_tokenizers import write_checkpoint


def test_without_a_tier_it_is_not_needed(tmp_path: Path) -> None:
    assert not needs_environment(load_settings({}, var=tmp_path))


def test_a_checkpoint_that_was_never_converted_needs_it(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    assert needs_environment(load_settings({}, var=tmp_path / "var", checkpoint=str(folder)))


def test_an_operators_own_python_needs_no_other(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    settings = load_settings({}, var=tmp_path / "var", checkpoint=str(folder), convert_python=sys.executable)
    assert not needs_environment(settings)


def test_a_converted_folder_needs_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino_model.bin").write_bytes(b"x")
    assert not needs_environment(load_settings({}, var=tmp_path / "var", checkpoint=str(folder)))


def test_a_checkpoint_that_is_wrong_is_left_for_the_start_to_tell(tmp_path: Path) -> None:
    assert not needs_environment(load_settings({}, var=tmp_path / "var", checkpoint=str(tmp_path / "none")))


@pytest.mark.parametrize("environ", [{}, {"TIDEGATE_NO_SUCH": "1"}], ids=["no tier", "wrong settings"])
def test_as_a_command_it_says_no_without_a_word(tmp_path: Path, environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.supervise.conversion"],
        env={"TIDEGATE_VAR": str(tmp_path), **environ},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
