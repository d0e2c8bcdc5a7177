"""Real Tritons at awkward places, and what they leave behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.settings import load_settings
from gateway.supervise import triton_server
from gateway.supervise.triton_server import SHM_DIR, Scratch, remove_leftovers, shm_prefix
from tests.fakes.triton_process import FAKE_MODELS, free_port, running_triton

AWKWARD = "a b $HOME;x 'q' (&) `c` ü"


@pytest.mark.usefixtures("triton_installed")
def test_models_start_whatever_the_path_looks_like(tmp_path: Path) -> None:
    """The python backend starts its stubs through `bash -c`, without quotes."""
    folder = tmp_path / AWKWARD
    settings = load_settings({}, var=folder / "var", port=free_port())
    with running_triton(folder, [FAKE_MODELS / "ticker"], settings) as triton:
        assert len(triton.stub_pids("ticker")) == 1
    assert list(SHM_DIR.glob(shm_prefix(settings, 0) + "*")) == []


def test_leftovers_of_this_instance_go_and_a_neighbours_stay(tmp_path: Path) -> None:
    mine, other = (load_settings({}, var=tmp_path / name) for name in ("mine", "other"))
    for settings in (mine, other):
        for replica in (0, 3):
            (SHM_DIR / f"{shm_prefix(settings, replica)}region").touch()
            (SHM_DIR / f"{shm_prefix(settings, replica)}x_links" / "backends").mkdir(parents=True)
    remove_leftovers(mine)
    assert [list(SHM_DIR.glob(shm_prefix(mine, replica) + "*")) for replica in (0, 3)] == [[], []]
    assert len([path for replica in (0, 3) for path in SHM_DIR.glob(shm_prefix(other, replica) + "*")]) == 4
    remove_leftovers(other)


def test_a_folder_that_triton_left_in_tmp_is_found_again_after_our_own_death(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, older, used = (tmp_path / f"python_env_{name}" for name in ("ours", "older", "used"))
    monkeypatch.setattr(triton_server, "SCRATCH_ROOT", str(tmp_path))
    older.mkdir()
    (tmp_path / "var" / "run").mkdir(parents=True)
    note = tmp_path / "var" / "run" / "triton-0.scratch"
    scratch = Scratch(note)
    scratch.before_start()
    ours.mkdir()
    used.mkdir()
    (used / "environment").touch()
    scratch.look()
    del scratch  # killed
    remove_leftovers(load_settings({}, var=tmp_path / "var"))
    assert sorted(path.name for path in tmp_path.glob("python_env_*")) == [
        "python_env_older",
        "python_env_used",
    ]
    assert not note.exists()


def test_a_folder_of_another_user_is_never_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_server, "SCRATCH_ROOT", str(tmp_path))
    (tmp_path / "python_env_x").mkdir()
    assert triton_server._scratch_folders() == {str(tmp_path / "python_env_x")}
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert triton_server._scratch_folders() == set()
