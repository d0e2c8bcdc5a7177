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
