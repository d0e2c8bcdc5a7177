"""What a replica's folder of links holds for generative tiers, and what their stubs are told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.supervise.assets import find_assets
from gateway.supervise.guard import watched
from gateway.supervise.triton_server import START_LIMIT_S, TIER_LOAD_LIMIT_S, start_limit_s, triton_command
from gateway.tier_config import generate_tiers


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    folder = tmp_path / "größe 水"
    folder.mkdir()
    (folder / "tiers.toml").write_text(
        '[small]\ncheckpoint = "models/a"\nslots = 3\n[big]\ncheckpoint = "/models/b"\ndescription = "Größe \\"x\\""\n',
        "utf-8",
    )
    return load_settings({}, var=tmp_path / "var", tiers_file=str(folder / "tiers.toml"), gateway_workers=1)


@pytest.fixture
def repositories(settings: Settings, triton_installed: None) -> Iterator[dict[str, Path]]:
    """By name, as Triton is told them."""
    command = triton_command(settings, 0, find_assets())
    found = [Path(word.partition("=")[2]) for word in command.argv if word.startswith("--model-repository=")]
    yield {path.name: path for path in found}
    shutil.rmtree(found[0].parent)


def test_every_tiers_name_leads_to_the_one_model(settings: Settings, repositories: dict[str, Path]) -> None:
    assert sorted(repositories) == ["generation", "retrieval", "tiers"]
    tiers = repositories["tiers"]
    assert sorted(path.name for path in tiers.iterdir()) == ["big", "small"]
    assert {path.resolve() for path in tiers.iterdir()} == {find_assets().generate_model.resolve()}


def test_stubs_read_the_same_tiers_over_paths_of_plain_letters(
    settings: Settings, repositories: dict[str, Path]
) -> None:
    links = repositories["tiers"].parent
    inside = load_settings({}, var=links / "var", tiers_file=str(links / "tiers.toml"), gateway_workers=1)
    told = {tier.name: tier for tier in generate_tiers(inside)}
    for tier in generate_tiers(settings):
        assert told[tier.name].slots == tier.slots
        assert told[tier.name].description == tier.description
        assert told[tier.name].checkpoint.isascii()
        assert Path(told[tier.name].checkpoint).readlink() == Path(tier.checkpoint)


def test_a_tier_is_watched_and_may_take_long_to_load(settings: Settings, tmp_path: Path) -> None:
    none = load_settings({}, var=tmp_path)
    always = ["embed", "embed_passages", "search", "rerank", "reader"]
    assert [model.name for model in watched(none)] == always
    assert [model.name for model in watched(settings)] == [*always, "small", "big"]
    assert start_limit_s(none) == START_LIMIT_S
    assert start_limit_s(settings) == START_LIMIT_S + 2 * TIER_LOAD_LIMIT_S


def test_without_a_tier_nothing_is_added(tmp_path: Path, triton_installed: None) -> None:
    command = triton_command(load_settings({}, var=tmp_path), 0, find_assets())
    found = [Path(word.partition("=")[2]) for word in command.argv if word.startswith("--model-repository=")]
    assert [path.name for path in found] == ["retrieval", "generation"]
    assert not {"TIDEGATE_TIERS_FILE", "TIDEGATE_CHECKPOINT"} & command.env.keys()
    shutil.rmtree(found[0].parent)
