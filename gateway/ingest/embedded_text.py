"""What of a chunk is embedded. Equal headings and texts have equal vectors, whoever asks for them."""

from __future__ import annotations


def embedded_text(heading: str, text: str) -> str:
    """The heading says what a passage is about when the passage itself does not."""
    return f"{heading}\n{text}" if heading else text
