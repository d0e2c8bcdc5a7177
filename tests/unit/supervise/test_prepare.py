"""What is made ready on disk, and the one sentence when that cannot be."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise import prepare
from gateway.supervise.assets import find_assets
from gateway.supervise.prepare import PreparationFailed, with_absolute_paths


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({}, var=tmp_path / "var")


def test_paths_mean_what_they_mean_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = load_settings(
        {}, var=Path("var"), triton_home="triton", envoy_bin="bin/envoy", redis_server="~/redis", database_url="sqlite:///x.db",
        checkpoint="model", tiers_file="tiers.toml", convert_python="venv/python",
    )  # fmt: skip
    made = with_absolute_paths(given)
    assert made.triton_home == str(tmp_path / "triton")
    assert made.envoy_bin == str(tmp_path / "bin" / "envoy")
    assert made.redis_server == str(Path.home() / "redis")
    assert made.database_url == f"sqlite:///{tmp_path}/x.db"
    assert made.checkpoint == str(tmp_path / "model")
    assert made.tiers_file == str(tmp_path / "tiers.toml")
    assert made.convert_python == str(tmp_path / "venv" / "python")


@pytest.mark.parametrize(
    "url", ["", "sqlite:////data/x.db", "postgresql://u:p%40ss@db/tidegate", "sqlite://"]
)
def test_a_database_url_that_is_absolute_stays_as_it_is(url: str, tmp_path: Path) -> None:
    assert with_absolute_paths(load_settings({}, var=tmp_path, database_url=url)).database_url == url


def test_what_is_no_database_url_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(PreparationFailed, match=r"^TIDEGATE_DATABASE_URL is not a database URL: "):
        with_absolute_paths(load_settings({}, var=tmp_path, database_url="here.db"))


@pytest.mark.parametrize("url", ["oracle+nothing://x/y", "postgresql+psycopg2://u:secret@h/x"])
def test_a_database_without_a_driver_names_the_setting(url: str, tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path, database_url=url)
    with pytest.raises(PreparationFailed, match="TIDEGATE_DATABASE_URL") as caught:
        prepare._prepare_database(settings)
    assert "secret" not in str(caught.value)


def fails(settings: Settings) -> str:
    with pytest.raises(PreparationFailed) as caught:
        prepare.prepare(settings, find_assets(), lambda _: None)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_where_a_folder_must_be_names_the_setting(settings: Settings) -> None:
    settings.var.mkdir()
    settings.log_dir.touch()
    assert "TIDEGATE_VAR" in fails(settings)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_no_more_names_the_setting(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "somewhere")

    monkeypatch.setattr(Path, "mkdir", full)
    text = fails(settings)
    assert "TIDEGATE_VAR" in text
    assert os.strerror(number) in text


def test_leftovers_of_a_killed_instance_go_and_all_else_stays(settings: Settings) -> None:
    drafts = [
        "models/.embed-x1",
        "models/.embed-x1-damaged",
        "triton/backends.123",
        "models/generate/.convert-x1",
    ]
    for name in (*drafts, "models/embed-1", "files/default", "secrets", "run"):
        (settings.var / name).mkdir(parents=True)
    (settings.var / "secrets" / ".dev-key.77").touch()
    (settings.var / "secrets" / "dev-key").touch()
    prepare._remove_leftovers(settings)
    left = {path.relative_to(settings.var).as_posix() for path in settings.var.rglob("*")}
    assert left == {
        "models",
        "models/embed-1",
        "models/generate",
        "files",
        "files/default",
        "secrets",
        "secrets/dev-key",
        "run",
    }


def test_what_was_readable_for_all_no_longer_is(settings: Settings) -> None:
    for folder in (settings.files_dir, settings.log_dir):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    database = settings.var / "tidegate.db"
    database.touch()
    database.chmod(0o644)
    prepare._shut_out_others(settings)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (settings.files_dir, settings.log_dir, database)]
    assert modes == [0o700, 0o700, 0o600]


def test_a_checkpoint_that_cannot_be_used_stops_the_start_with_one_sentence(tmp_path: Path) -> None:
    settings = load_settings({}, var=tmp_path / "var", checkpoint=str(tmp_path / "none"))
    with pytest.raises(PreparationFailed) as caught:
        prepare._prepare_tiers(settings, print)
    assert str(caught.value) == (
        f"TIDEGATE_CHECKPOINT, tier `generate`: {tmp_path}/none does not exist: name the folder that holds the "
        "checkpoint's config.json."
    )
