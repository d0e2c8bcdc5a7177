"""What numbers a sentence claims, what a passage holds, and that the writing of a number makes no difference."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.language.figures import numbers_claimed, numbers_held


@given(st.integers(1, 10**12), st.sampled_from([",", ".", " ", "\u202f", "'", "’"]))
def test_separators_between_thousands_make_no_difference(number: int, mark: str) -> None:
    written = f"{number:,}".replace(",", mark)
    assert str(number) in numbers_held(f"There are {written} of them.")
    assert str(number) in numbers_claimed(f"There are {written} euro in it.")


@given(st.integers(0, 10**6), st.integers(0, 99), st.sampled_from(".,"))
def test_point_and_comma_before_a_fraction_make_no_difference(whole: int, cents: int, mark: str) -> None:
    amounts = numbers_held(f"It costs {whole}{mark}{cents:02} euro.")
    assert amounts == numbers_held(f"It costs {whole}.{cents:02} euro.")
    grouped = f"{whole:,}.{cents:02}".replace(",", "_").replace(".", mark).replace("_", ".,"[mark == "."])
    assert not amounts.isdisjoint(numbers_held(f"It costs {grouped} euro."))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1.2 million people", "1,200,000 people"),
        ("5 thousand", "5000"),
        ("3 Mrd. Euro", "3.000.000.000 Euro"),
        ("10:30", "10.30 Uhr"),
        ("12.05.1843", "12 May 1843"),
        ("1843-05-12", "12 May 1843"),
        ("007", "7"),
        ("25 gates", "twenty-five gates"),
        ("12 Tore", "zwölf Tore"),
        ("١٨٤٣", "1843"),
        ("12 000,50", "12000.5"),
        ("1.500", "1500"),
        ("1.500", "1.5"),
    ],
)
def test_these_are_one_number(one: str, other: str) -> None:
    assert not numbers_held(one).isdisjoint(numbers_held(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1850", "1843"),
        ("19.90", "90"),
        ("1.2.3", "1.2.4"),
        ("10.0.0.1", "10.0.0.2"),
        ("1,000", "1"),
        ("2000000", "2 thousand"),
    ],
)
def test_these_are_two(one: str, other: str) -> None:
    assert numbers_held(one).isdisjoint(numbers_held(other))


@pytest.mark.parametrize(
    "text",
    [
        "1. The gate",
        "12) the gate",
        "H100 and utf-8 and COVID-19",
        "the 3rd gate of the 1840s",
        "rows[12]",
        "about 1,200, ca. 40, ~50 and more than 30",
        "by passages 11 and 12",
        "three gates",
        "there are 4 ways",
        "v1.2.3",
        "",
    ],
)
def test_no_claim_is_made_of_these(text: str) -> None:
    assert numbers_claimed(text) == frozenset()


@pytest.mark.parametrize(
    ("text", "claimed"),
    [
        ("built in 1843", {"1843"}),
        ("4 euro, 5% or $6", {"4", "5", "6"}),
        ("within 2 hours", {"2"}),
        ("since 1843: a gate", {"1843"}),
        ("19.90 euro is the price", {"19.9"}),
        ("建于1850年", {"1850"}),
        ("a 70B model", {"70"}),
    ],
)
def test_these_are_claimed(text: str, claimed: set[str]) -> None:
    assert numbers_claimed(text) == claimed


@given(st.text(st.sampled_from("0123456789.,:'’ \u202f-aksm%[]٣million"), max_size=120))
def test_whatever_is_claimed_is_held_by_the_same_text(text: str) -> None:
    assert numbers_claimed(text) <= numbers_held(text)


@pytest.mark.parametrize("text", ["1", "1,", "1 000 ", "twenty ", "1 111.1 111,", " ", "about "])
def test_hostile_text_takes_time_in_proportion(text: str) -> None:
    numbers_held(text * (200_000 // len(text)))
    numbers_claimed(text * (200_000 // len(text)))
