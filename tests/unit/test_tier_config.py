from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import SettingsError, load_settings
from gateway.tier_config import generate_tiers


def tiers(tmp_path: Path, text: str) -> list[object]:
    path = tmp_path / "tiers.toml"
    path.write_text(text)
    return list(generate_tiers(load_settings({}, var=tmp_path, tiers_file=str(path))))


def test_no_setting_means_no_generative_tier(tmp_path: Path) -> None:
    assert generate_tiers(load_settings({}, var=tmp_path)) == []


def test_one_checkpoint_is_the_tier_generate() -> None:
    (tier,) = generate_tiers(load_settings({"TIDEGATE_CHECKPOINT": "/models/x"}))
    assert (tier.name, tier.checkpoint, tier.weights) == ("generate", "/models/x", "int8")


def test_a_file_names_several_in_its_order_and_paths_count_from_it(tmp_path: Path) -> None:
    found = tiers(
        tmp_path, '[small]\ncheckpoint = "a"\nslots = 3\n[large]\ncheckpoint = "/m/b"\nweights = "f32"\n'
    )
    assert [(t.name, t.checkpoint, t.slots, t.weights) for t in found] == [  # type: ignore[attr-defined]
        ("small", str(tmp_path / "a"), 3, "int8"),
        ("large", "/m/b", 8, "f32"),
    ]


def test_slots_are_enough_for_a_permit_in_every_worker(tmp_path: Path) -> None:
    path = tmp_path / "tiers.toml"
    path.write_text('[small]\ncheckpoint = "a"\nslots = 1\n')
    settings = load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=5, triton_replicas=2)
    assert [tier.slots for tier in generate_tiers(settings)] == [3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[small", "is not TOML"),
        ("[small]\nslots = 3", "[small]: Object missing required field `checkpoint`"),
        ('[small]\ncheckpoint = "a"\nslot = 3', "[small]: Object contains unknown field `slot`"),
        ('[small]\ncheckpoint = "a"\nslots = 0', "`$.slots`"),
        ('[small]\ncheckpoint = "a"\nweights = "int2"', "`$.weights`"),
        ('[fast]\ncheckpoint = "a"', "[fast]: that name is taken"),
        ('["a b"]\ncheckpoint = "a"', "[a b] is no name for a tier"),
        ('["A"]\ncheckpoint = "a"', "[A] is no name for a tier"),
        ('[s]\ncheckpoint = "a"\nmax_tokens = 99\ncontext_tokens = 99', "max_tokens must be smaller"),
        ("small = 3", "[small]: Expected `object`"),
    ],
    ids=lambda value: value[:30],
)
def test_a_bad_file_is_told_with_setting_tier_and_field(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_TIERS_FILE") as caught:
        tiers(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_missing_file_and_two_settings_at_once_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TIDEGATE_TIERS_FILE=/none cannot be read: No such file"):
        generate_tiers(load_settings({"TIDEGATE_TIERS_FILE": "/none"}))
    with pytest.raises(SettingsError, match="are both set"):
        generate_tiers(load_settings({"TIDEGATE_TIERS_FILE": "/none", "TIDEGATE_CHECKPOINT": "/m"}))
