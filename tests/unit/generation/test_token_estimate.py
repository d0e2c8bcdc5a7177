from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.generation.prompt import PromptBuilder
from gateway.generation.token_estimate import MESSAGE_TOKENS, EstimatedFormat, num_tokens
from gateway.types import Inquiry
from tests.fakes.engines import PASSAGES

SEAMS = 16  # blank lines between the parts, which a prompt with room enough does not count
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("tide", 2),
        ("A tide gate.", 1 + 2 + 2 + 1),
        ("2026", 4),
        ("Größe", 1 + 1 + 1 + 1),
        ("水門", 4),
        ("🌊", 3),
        ("a\n\nb", 4),
        ("\ud800", 1),
    ],
    ids=ascii,
)
def test_counts_are_as_the_page_says(text: str, count: int) -> None:
    assert num_tokens(text) == count


@given(st.text(), st.text())
def test_a_text_never_counts_more_than_its_parts_and_its_seam(one: str, two: str) -> None:
    both = num_tokens(one + two)
    assert max(num_tokens(one), num_tokens(two)) <= both <= num_tokens(one) + num_tokens(two) + 1


def test_real_prose_counts_above_four_letters_a_token_and_below_two() -> None:
    for page in ("README.md", "ARCHITECTURE.md", "docs/tiers.md", "gateway/chat.py"):
        text = (ROOT / page).read_text("utf-8")
        assert len(text) / 4 < num_tokens(text) < len(text) / 1.6


def test_a_prompt_is_built_with_it() -> None:
    builder = PromptBuilder("large", EstimatedFormat(), context_tokens=600, max_tokens=100)
    prompt = builder.build(Inquiry(question="What is a tide gate?"), PASSAGES)
    assert prompt.num_passages == 2
    text = "".join(message["content"] for message in prompt.messages)
    assert prompt.num_tokens >= num_tokens(text) + MESSAGE_TOKENS * len(prompt.messages) - SEAMS
