"""Conversion as a process: what is kept, what is cleaned away, and the sentence for each way it may fail.

The converter here is a script that does in no time what the real one does in half a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gateway.checkpoint import prepare
from gateway.checkpoint.errors import CheckpointError
from gateway.checkpoint.prepare import (
    MANIFEST_FILE,
    check_tier,
    is_intact,
    prepare_checkpoint,
    prepared_folder,
)
from gateway.tier_config import GenerateTier
from tests.fakes.small_tokenizers import write_checkpoint

GOOD = """
import pathlib, sys
made = pathlib.Path(sys.argv[-2]); made.mkdir()
print("converting")
(made / "openvino_model.xml").write_text("<net/>"); (made / "openvino_model.bin").write_bytes(b"x" * 1000)
"""


@pytest.fixture
def tier(tmp_path: Path) -> GenerateTier:
    folder = write_checkpoint(tmp_path / "hf")
    return GenerateTier(name="small", checkpoint=str(folder), context_tokens=512, weights="int8")


@pytest.fixture
def models_dir(tmp_path: Path) -> Path:
    return tmp_path / "models"


def converter(tmp_path: Path, body: str = GOOD) -> str:
    """A Python whose scripts all do this."""
    (tmp_path / "body.py").write_text(body)
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} "{tmp_path / "body.py"}" "$@"\n')
    path.chmod(0o755)
    return str(path)


def left(models_dir: Path) -> list[str]:
    return sorted(path.name for path in (models_dir / "generate").iterdir() if path.name != ".lock")


def fails(tier: GenerateTier, models_dir: Path, python: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        prepare_checkpoint(tier, models_dir, python, lambda _: None)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("tier `small`: ")
    return str(caught.value)


def test_a_checkpoint_is_converted_once_with_its_own_small_files(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    folder = prepare_checkpoint(tier, models_dir, converter(tmp_path), lines.append)
    assert "Tier small: converting" in lines
    kept = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in folder.iterdir()} == kept | {
        "openvino_model.xml", "openvino_model.bin", MANIFEST_FILE
    }  # fmt: skip
    lines.clear()
    assert prepare_checkpoint(tier, models_dir, "/nothing/here", lines.append) == folder
    assert lines == []
    assert prepared_folder(tier, models_dir) == folder


def test_the_manifest_says_what_went_in(tier: GenerateTier, models_dir: Path, tmp_path: Path) -> None:
    folder = prepare_checkpoint(tier, models_dir, converter(tmp_path), print)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    assert manifest["source"] == tier.checkpoint
    assert manifest["weights"] == "int8"
    assert manifest["model_type"] == "llama"
    assert manifest["files"]["openvino_model.bin"]["num_bytes"] == 1000
    assert len(manifest["files"]["openvino_model.bin"]["sha256"]) == 64


def test_other_weights_are_another_conversion(tier: GenerateTier, models_dir: Path, tmp_path: Path) -> None:
    import msgspec

    python = converter(tmp_path)
    first = prepare_checkpoint(tier, models_dir, python, print)
    other = prepare_checkpoint(msgspec.structs.replace(tier, weights="int4"), models_dir, python, print)
    more = prepare_checkpoint(msgspec.structs.replace(tier, slots=2), models_dir, python, print)
    assert first != other
    assert first == more


def test_a_damaged_conversion_is_made_anew(tier: GenerateTier, models_dir: Path, tmp_path: Path) -> None:
    folder = prepare_checkpoint(tier, models_dir, converter(tmp_path), print)
    (folder / "openvino_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is not converted yet: `tidegate up` does that"):
        prepared_folder(tier, models_dir)
    assert prepare_checkpoint(tier, models_dir, converter(tmp_path), print) == folder
    assert is_intact(folder)
    assert left(models_dir) == [folder.name]


def test_what_a_killed_conversion_left_is_cleaned_away(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    (models_dir / "generate" / ".convert-dead" / "model").mkdir(parents=True)
    folder = prepare_checkpoint(tier, models_dir, converter(tmp_path), print)
    assert left(models_dir) == [folder.name]


def test_a_conversion_that_nobody_wants_any_more_ends_and_leaves_nothing(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def progress(line: str) -> None:
        if "begun" in line:
            raise Enough

    python = converter(tmp_path, "import time\nprint('begun', flush=True)\ntime.sleep(600)")
    with pytest.raises(Enough):
        prepare_checkpoint(tier, models_dir, python, progress)
    assert left(models_dir) == []


def test_of_two_starts_at_once_one_converts_and_the_other_waits(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    (models_dir / "generate").mkdir(parents=True)
    waits = threading.Event()
    found: list[Path] = []

    def second() -> None:
        found.append(prepare_checkpoint(tier, models_dir, converter(tmp_path), lambda _: waits.set()))

    with (models_dir / "generate" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(10)
    thread.join(10)
    assert is_intact(found[0])


def test_a_silent_converter_is_said_to_be_at_work(
    tier: GenerateTier, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "QUIET_S", 0.01)
    lines: list[str] = []
    prepare_checkpoint(
        tier, models_dir, converter(tmp_path, "import time\ntime.sleep(0.1)\n" + GOOD), lines.append
    )
    assert any(line.startswith("Tier small: starting, ") for line in lines)


FAILURES = {
    "it fails": (
        "import sys; sys.exit('a\\nValueError: nothing fits.')",
        "the conversion failed (ValueError: nothing fits)",
    ),
    "it says nothing": ("import sys; sys.exit(3)", "the conversion failed (exit status 3)"),
    "it is killed": (
        "import os; os.kill(os.getpid(), 9)",
        "the conversion was killed, as happens when memory runs out: free some",
    ),
    "a library is missing": (
        "import not_there",
        "(ModuleNotFoundError: No module named 'not_there'): make it anew with `make convert-env`",
    ),
}


@pytest.mark.parametrize(("body", "sentence"), FAILURES.values(), ids=FAILURES.keys())
def test_a_conversion_that_fails_is_one_sentence_and_leaves_nothing(
    tier: GenerateTier, models_dir: Path, tmp_path: Path, body: str, sentence: str
) -> None:
    assert sentence in fails(tier, models_dir, converter(tmp_path, body))
    assert left(models_dir) == []


def test_a_converter_that_is_not_there_names_the_setting(tier: GenerateTier, models_dir: Path) -> None:
    text = fails(tier, models_dir, "/nothing/here")
    assert text == (
        "tier `small`: TIDEGATE_CONVERT_PYTHON=/nothing/here is no program: set it to a Python that has optimum-intel"
    )


def test_without_an_environment_the_command_that_makes_it_is_named(
    tier: GenerateTier, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "OWN_PYTHON", tmp_path / "none")
    assert "is missing: make it with `make convert-env`, or set TIDEGATE_CONVERT_PYTHON" in fails(
        tier, models_dir, ""
    )


def test_a_folder_that_cannot_be_written_names_the_setting(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    models_dir.write_text("")
    text = fails(tier, models_dir, converter(tmp_path))
    assert text.endswith(": set TIDEGATE_VAR to another folder")


def test_a_converted_folder_is_used_where_it_stands(tmp_path: Path, models_dir: Path) -> None:
    folder = write_checkpoint(tmp_path / "ir")
    (folder / "openvino_model.xml").write_text("<net/>")
    (folder / "openvino_model.bin").write_bytes(b"x")
    tier = GenerateTier(checkpoint=str(folder), context_tokens=512)
    assert prepare_checkpoint(tier, models_dir, "", print) == folder
    assert prepared_folder(tier, models_dir) == folder
    assert not models_dir.exists()


# Before a start


def check(tier: GenerateTier, models_dir: Path, python: str, **changes: Any) -> tuple[int, bool]:
    _, needed, is_due = check_tier(
        tier, models_dir, python, **{"num_replicas": 1, "taken_bytes": 0, **changes}
    )
    return needed, is_due


def test_a_look_before_the_start_says_whether_a_conversion_is_due(
    tier: GenerateTier, models_dir: Path, tmp_path: Path
) -> None:
    python = converter(tmp_path)
    needed, is_due = check(tier, models_dir, python)
    assert is_due
    assert needed > 0
    assert not models_dir.exists()
    prepare_checkpoint(tier, models_dir, python, print)
    assert check(tier, models_dir, "/nothing/here") == (needed, False)


def test_a_due_conversion_that_cannot_be_made_is_told_before_the_start(
    tier: GenerateTier, models_dir: Path
) -> None:
    with pytest.raises(CheckpointError, match="TIDEGATE_CONVERT_PYTHON"):
        check(tier, models_dir, "/nothing/here")


def test_the_child_gets_no_settings_of_ours(
    tier: GenerateTier, models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_DATABASE_URL", "postgresql://u:secret@h/x")
    body = "import os, sys; sys.exit(' '.join(sorted(os.environ)))"
    text = fails(tier, models_dir, converter(tmp_path, body))
    assert "TIDEGATE" not in text
    assert "PATH" in text


def test_nothing_of_openvino_is_imported_to_prepare(tmp_path: Path) -> None:
    code = (
        "import sys, gateway.checkpoint.prepare, gateway.checkpoint.chat_format, gateway.generation.openvino_engine\n"
        "assert not [name for name in sys.modules if name.startswith(('openvino', 'torch', 'onnx'))]"
    )
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
