"""Equal requests have equal keys, however they are written; different ones never share one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.caching.key import Setting, key_of, normalised
from gateway.types import Sampling, Turn

BASE = Setting(tenant_id="t", tier="fast", edition="1", collections=["a", "b"])


@pytest.mark.parametrize(
    "written",
    ["What is  a gate?", " What is a gate? ", "What is a\ngate", "What is a gate ?"],
    ids=["spaces", "around", "lines", "mark"],
)
def test_what_no_reader_sees_is_no_difference(written: str) -> None:
    assert key_of(BASE, written) == key_of(BASE, "What is a gate?")


def test_letters_are_the_same_in_all_their_forms() -> None:
    assert normalised("caf\u00e9?") == normalised("cafe\u0301?")


@pytest.mark.parametrize(
    "other", ["what is a gate?", "What is a gate!", "What is a gates?", "What is a gate??"], ids=str
)
def test_anything_else_is_another_question(other: str) -> None:
    assert key_of(BASE, other) != key_of(BASE, "What is a gate?")


def test_collections_have_no_order() -> None:
    turned = Setting(tenant_id="t", tier="fast", edition="1", collections=["b", "a", "b"])
    assert key_of(turned, "x") == key_of(BASE, "x")


@pytest.mark.parametrize(
    "change",
    [
        {"tenant_id": "u"},
        {"tier": "deep"},
        {"edition": "2"},
        {"collections": ["a"]},
        {"num_passages": 3},
        {"max_hops": 1},
        {"steps": ["no_rerank"]},
        {"may_escalate": True},
        {"sampling": Sampling(max_tokens=3)},
        {"history": [Turn("user", "x")]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_part_of_the_setting_counts(change: dict[str, object]) -> None:
    fields = {name: getattr(BASE, name) for name in BASE.__struct_fields__}
    other = key_of(Setting(**(fields | change)), "x")
    assert other.scope != key_of(BASE, "x").scope
    assert other.digest != key_of(BASE, "x").digest


@given(st.lists(st.text(max_size=5), min_size=2, max_size=2, unique=True), st.text(max_size=5))
def test_no_two_tenants_share_a_key(tenants: list[str], question: str) -> None:
    one, other = (key_of(Setting(tenant_id=name, tier="fast", edition="1"), question) for name in tenants)
    assert one.digest != other.digest


@given(st.text(max_size=8), st.text(max_size=8), st.text(max_size=8), st.text(max_size=8))
def test_question_and_what_was_written_are_not_mixed_up(a: str, b: str, c: str, d: str) -> None:
    same = (normalised(a), normalised(b)) == (normalised(c), normalised(d))
    assert (key_of(BASE, a, b) == key_of(BASE, c, d)) == same
