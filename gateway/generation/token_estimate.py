"""Tokens of a text for a model whose tokenizer we do not have: a count that is rather too high than too low. Pure.

A prompt that is counted too high loses a passage; one that is counted too low is refused by the server. So words count
a token for each three letters begun (English text has about 4.5 letters a token), every digit and every mark counts
one, and so does a letter beyond ASCII; letters of three bytes and more (CJK, emoji) count two and three.
"""

from __future__ import annotations

import re

LETTERS_A_TOKEN = 3
MESSAGE_TOKENS = 8  # what a chat template puts around a message: marks, the role, line ends
_PARTS = re.compile(r"[A-Za-z]+|[ \t]+|[^A-Za-z \t]")


def num_tokens(text: str) -> int:
    return sum(_cost(part) for part in _PARTS.findall(text))


def _cost(part: str) -> int:
    first = part[0]
    if first in " \t":
        return len(part) // 4  # one blank belongs to the word behind it; many are an indent
    if first.isascii():
        return -(-len(part) // LETTERS_A_TOKEN) if first.isalpha() else 1
    return max(1, len(first.encode("utf-8", "replace")) - 1)


class EstimatedFormat:
    """generation.prompt.Format without a tokenizer and a template: `encode` gives as many ids as are estimated."""

    def render(self, messages: list[dict[str, str]]) -> str:
        """For counting alone. A form feed, which no message needs, stands for what comes around one."""
        return "".join("\f" * MESSAGE_TOKENS + message["content"] for message in messages)

    def encode(self, text: str) -> list[int]:
        return [0] * num_tokens(text)

    def count_many(self, texts: list[str]) -> list[int]:
        return [num_tokens(text) for text in texts]
