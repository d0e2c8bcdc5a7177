"""docs/tiers.md says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.checkpoint.inspection import SUPPORTED
from gateway.settings import load_settings
from gateway.tier_config import WEIGHTS, GenerateTier, UpstreamTier, generate_tiers, upstream_tiers
from gateway.tiering.fallback import CAUSES

PAGE = (Path(__file__).parents[2] / "docs" / "tiers.md").read_text("utf-8")


HERE, _, ELSEWHERE = PAGE.partition("\n## On another server\n")


@pytest.mark.parametrize(
    ("page", "kind", "untold"),
    [
        (HERE, GenerateTier, {"checkpoint", "description"}),
        (ELSEWHERE.partition("\n## ")[0], UpstreamTier, {"base_url", "model", "description"}),
    ],
    ids=["checkpoint", "server"],
)
def test_the_table_has_every_field_with_its_default(page: str, kind: Any, untold: set[str]) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:(.*?) )?\| ", page, re.MULTILINE))
    fields = {field.name: field.default for field in msgspec.structs.fields(kind) if field.name != "name"}
    assert list(rows) == list(fields)
    shown = {name: text.strip("`") for name, text in rows.items() if text}
    assert shown == {name: as_shown(fields[name]) for name in shown}
    assert {name for name in fields.keys() - shown.keys() if fields[name]} | untold == untold | {
        "description"
    }


def as_shown(default: object) -> str:
    return json.dumps(default) if isinstance(default, tuple | bool) else str(default)


def test_every_cause_of_a_fallback_is_on_the_page() -> None:
    table = PAGE.partition("\n## When a tier cannot answer\n")[2]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [
        "unavailable", "timeout", "circuit_open", "overloaded", "malformed", "refused"
    ]  # fmt: skip
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(CAUSES)


def test_the_servers_example_is_a_tiers_file(tmp_path: Path) -> None:
    example = re.search(r"(    \[large\]\n    base_url.*?)\n\n[^ ]", PAGE, re.DOTALL)
    assert example
    path = tmp_path / "tiers.toml"
    small = '[small]\ncheckpoint = "/m"\n'
    path.write_text(small + re.sub(r"^    ", "", example[1], flags=re.MULTILINE))
    (tier,) = upstream_tiers(load_settings({}, var=tmp_path, tiers_file=str(path), gateway_workers=1))
    assert (tier.name, tier.api_key_env, tier.fallback) == (
        "large",
        "LARGE_TIER_KEY",
        ("small", "deep", "fast"),
    )


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
