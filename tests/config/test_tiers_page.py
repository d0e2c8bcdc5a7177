"""docs/tiers.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from gateway.checkpoint.inspection import SUPPORTED
from gateway.settings import load_settings
from gateway.tier_config import WEIGHTS, GenerateTier, generate_tiers

PAGE = (Path(__file__).parents[2] / "docs" / "tiers.md").read_text("utf-8")


def test_the_table_has_every_field_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:(.*?) )?\| ", PAGE, re.MULTILINE))
    fields = {
        field.name: field.default for field in msgspec.structs.fields(GenerateTier) if field.name != "name"
    }
    assert list(rows) == list(fields)
    shown = {name: text.strip("`") for name, text in rows.items() if text}
    assert shown == {name: str(fields[name]) for name in shown}
    assert fields.keys() - shown.keys() == {"checkpoint", "description"}


def test_architectures_and_weights_are_those_of_the_code() -> None:
    listed = PAGE.partition("Architectures (`model_type`): ")[2].partition(". For each")[0]
    assert tuple(re.findall(r"`(\w+)`", listed)) == SUPPORTED
    assert all(f"`{weights}`" in PAGE for weights in WEIGHTS)


def test_the_example_is_a_tiers_file(tmp_path: Path) -> None:
    example = re.search(r"(    \[small\].*?)\n\n[^ ]", PAGE, re.DOTALL)
    assert example
    path = tmp_path / "tiers.toml"
    path.write_text(re.sub(r"^    ", "", example[1], flags=re.MULTILINE))
    tiers = generate_tiers(load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=1))
    assert [(tier.name, tier.slots, tier.weights) for tier in tiers] == [
        ("small", 16, "int8"),
        ("large", 8, "int4"),
    ]
    assert tiers[1].checkpoint == str(tmp_path / "models" / "Llama-3.2-3B-Instruct")
