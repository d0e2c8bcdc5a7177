"""Each failure is one sentence that names what to change."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from gateway.checkpoint import inspection
from gateway.settings import Settings, load_settings
from gateway.supervise import preflight
from tests.fakes.small_tokenizers import write_checkpoint

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


# Generative tiers


def test_without_a_tier_there_is_nothing_to_check(tmp_path: Path) -> None:
    assert preflight.check_tiers(load_settings({}, var=tmp_path)) == []


def test_a_tier_that_will_be_converted_says_so(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", max_position_embeddings=8192)
    settings = load_settings({}, var=tmp_path / "var", checkpoint=str(folder), convert_python=sys.executable)
    (check,) = preflight.check_tiers(settings)
    assert check.ok
    assert check.detail == f"llama in {folder}, to be converted"


@pytest.mark.parametrize("setting", ["TIDEGATE_CHECKPOINT", "TIDEGATE_TIERS_FILE"])
def test_a_tier_that_cannot_be_used_names_setting_tier_and_fix(tmp_path: Path, setting: str) -> None:
    tiers = tmp_path / "tiers.toml"
    tiers.write_text('[generate]\ncheckpoint = "none"\n')
    given = (
        {"checkpoint": str(tmp_path / "none")}
        if setting == "TIDEGATE_CHECKPOINT"
        else {"tiers_file": str(tiers)}
    )
    (check,) = preflight.check_tiers(load_settings({}, var=tmp_path / "var", **given))
    assert not check.ok
    assert check.sentence() == (
        f"{setting}, tier `generate`: {tmp_path}/none does not exist: name the folder that holds the checkpoint's "
        "config.json."
    )


def test_a_tiers_file_that_is_wrong_is_a_failed_check(tmp_path: Path) -> None:
    (tmp_path / "tiers.toml").write_text("[a]\nslots = 0\n")
    (check,) = preflight.check_tiers(load_settings({}, var=tmp_path, tiers_file=str(tmp_path / "tiers.toml")))
    assert not check.ok
    assert "[a]" in check.sentence()


def test_the_tiers_of_auto_must_be_there(tmp_path: Path) -> None:
    assert preflight.check_auto(load_settings({}, var=tmp_path)) == []
    (good,) = preflight.check_auto(load_settings({}, var=tmp_path, auto_tiers="fast,deep"))
    assert (good.ok, good.detail) == (True, "chooses among fast, deep")
    (bad,) = preflight.check_auto(load_settings({}, var=tmp_path, auto_tiers="fast,large"))
    assert not bad.ok
    assert bad.sentence().endswith("there are: fast, deep: correct TIDEGATE_AUTO_TIERS.")


def two_tiers(tmp_path: Path) -> Settings:
    folder = write_checkpoint(tmp_path / "model", max_position_embeddings=8192)
    tables = [
        f'[{name}]\ncheckpoint = "{folder}"\nslots = 1024\ncontext_tokens = 8192\n' for name in ("one", "two")
    ]
    (tmp_path / "tiers.toml").write_text("".join(tables))
    return load_settings(
        {}, var=tmp_path / "var", tiers_file=str(tmp_path / "tiers.toml"), convert_python=sys.executable
    )


def test_tiers_that_fit_alone_but_not_together_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspection, "available_bytes", lambda: 2 * inspection.GIB)
    first, second = preflight.check_tiers(two_tiers(tmp_path))
    assert first.ok
    assert not second.ok
    assert "lower slots or context_tokens" in second.sentence()


def test_faiss_needs_no_check_and_milvus_one_that_names_the_settings() -> None:
    assert preflight.check_vector_store(load_settings({})) == []
    away = load_settings({}, vector_store="milvus:http://127.0.0.1:1", milvus_token="hush:hush")
    (check,) = preflight.check_vector_store(away)
    assert not check.ok
    assert "Milvus at http://127.0.0.1:1 does not answer" in check.sentence()
    assert "correct TIDEGATE_VECTOR_STORE" in check.sentence()
    assert "hush" not in check.sentence()


def test_a_file_of_milvus_lite_is_refused_with_the_way_to_serve_it() -> None:
    (check,) = preflight.check_vector_store(load_settings({}, vector_store="milvus:/tmp/lite.db"))
    assert not check.ok
    assert "milvus-lite server" in check.sentence()
