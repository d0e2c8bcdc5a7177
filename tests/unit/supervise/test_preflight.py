"""Each failure is one sentence that names what to change."""

from __future__ import annotations

import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from gateway.settings import load_settings
from gateway.supervise import preflight

Usage = namedtuple("Usage", "total used free")


def test_an_old_python_is_refused() -> None:
    check = preflight.check_python((3, 10))
    assert check.sentence() == "Python 3.10 is not supported: use Python 3.11 or 3.12."


def test_numpy_2_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.4.0")
    assert not preflight.check_numpy().ok


def test_a_full_disk_names_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 2**40, 100 * 2**20))
    sentence = preflight.check_disk(load_settings({}, var=tmp_path / "var")).sentence()
    assert "100 MiB" in sentence
    assert "TIDEGATE_VAR" in sentence


@pytest.mark.parametrize(
    ("replicas", "free_mib", "ok"),
    [
        pytest.param(1, 8, True, id="one"),
        pytest.param(1, 7, False, id="too little for one"),
        pytest.param(2, 16, True, id="two"),
        pytest.param(2, 15, False, id="too little for two"),
        pytest.param(6, 61, True, id="six beside another instance in Docker's default of 64 MiB"),
    ],
)
def test_every_replica_needs_8_mib_of_shared_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, replicas: int, free_mib: int, ok: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**26, 0, free_mib * 2**20))
    check = preflight.check_shared_memory(load_settings({}, var=tmp_path, triton_replicas=replicas))
    assert check.ok is ok
    assert ok or f"{8 * replicas} are needed" in check.sentence()
    assert preflight.check_shared_memory(load_settings({}, var=tmp_path), running=True).ok


@pytest.mark.parametrize(
    "folder", ["a b", "$HOME", "semi;colon", "it's", 'a "quote"', "100%", "back`tick", "ünï", "a:b", "x#y"]
)
def test_odd_letters_in_var_are_fine(folder: str, tmp_path: Path) -> None:
    assert preflight.check_paths(load_settings({}, var=tmp_path / folder)).ok


@pytest.mark.parametrize("folder", ["a ; b", "a # b", "line\nbreak", "what?"])
def test_letters_that_var_cannot_have_name_the_setting(folder: str, tmp_path: Path) -> None:
    sentence = preflight.check_paths(load_settings({}, var=tmp_path / folder)).sentence()
    assert "TIDEGATE_VAR" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(("folder", "ok"), [("a b $x", True), ("a:b", False), ("a ;b", False)])
def test_a_checkout_where_nothing_could_start_is_told(folder: str, ok: bool, tmp_path: Path) -> None:
    check = preflight.check_paths(load_settings({}, var=tmp_path), checkout=tmp_path / folder)
    assert check.ok is ok
    assert ok or "move the checkout" in check.sentence()


def test_a_var_that_is_a_file_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "var").touch()
    check = preflight.check_var(load_settings({}, var=tmp_path / "var"))
    assert not check.ok
    assert "TIDEGATE_VAR" in check.sentence()


@pytest.mark.parametrize("setting", ["redis_server", "envoy_bin", "triton_home"])
def test_a_wrong_path_names_its_setting(setting: str, tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path, **{setting: "/nowhere"})
    failed = [check.sentence() for check in preflight.check_binaries(settings) if not check.ok]
    assert failed
    assert all(f"TIDEGATE_{setting.upper()}=/nowhere" in sentence for sentence in failed)


def test_a_port_number_without_room_above_is_refused(tmp_path: Path) -> None:
    checks = preflight.check_ports(
        load_settings({}, var=tmp_path, port=65000, triton_replicas=64, gateway_workers=1)
    )
    assert [check.sentence()[:13] for check in checks if not check.ok] == ["TIDEGATE_PORT"]
