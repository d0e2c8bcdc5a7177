"""Documents for the ingest benchmark: made of the project's own pages, so that lengths and words are those of real
text, and different in every paragraph, so that nothing is known from an earlier round."""

from __future__ import annotations

import random

from gateway.supervise.assets import find_assets

PARAGRAPHS = 40  # of one document
WORDS = ("harbour", "sluice", "ebb", "current", "lantern", "keel", "mooring", "estuary", "buoy", "breakwater")


def documents(count: int, *, seed: int) -> dict[str, bytes]:
    """Name -> bytes of Markdown documents of about 25 chunks. Another seed shares no paragraph with this one."""
    rng = random.Random(seed)
    paragraphs = _paragraphs()
    return {f"bench-{seed}-{number}.md": _document(rng, paragraphs).encode() for number in range(count)}


def _paragraphs() -> list[str]:
    text = "\n\n".join(page.read_text("utf-8") for page in find_assets().documents)
    return [part for part in text.split("\n\n") if len(part) > 200 and "|" not in part and "```" not in part]


def _document(rng: random.Random, paragraphs: list[str]) -> str:
    parts = [f"# Notes {rng.randrange(10**9)}"]
    for number in range(PARAGRAPHS):
        if number % 8 == 0:
            parts.append(f"## Part {number // 8} of {rng.choice(WORDS)}")
        own = f"{rng.choice(WORDS)} {rng.randrange(10**9)}"
        parts.append(f"{rng.choice(paragraphs)} It was noted at the {own}.")
    return "\n\n".join(parts)
