"""How many tokens a request will take, guessed before its passages are known. Pure numbers; settled by the real ones.

A tier that writes has a prompt budget: its context less the answer's part. A tier that quotes counts the word pieces of
what it read and of what it quotes. Both read about so many passages of about so many characters.
"""

from __future__ import annotations

from typing import NamedTuple

CHARS_PER_TOKEN = 4
QUOTE_TOKENS = 200  # of an answer made of quotes
ANSWER_TOKENS = 512  # of a written one whose request says nothing
INSTRUCTION_TOKENS = 120  # what every prompt of a tier that writes begins with


class Estimate(NamedTuple):
    """Tokens that go in and that come out."""

    prompt: int
    answer: int

    @property
    def total(self) -> int:
        return self.prompt + self.answer

    @property
    def weighed(self) -> int:
        return weighed(self.prompt, self.answer)


def weighed(prompt: int, answer: int) -> int:
    """What a request counts between tenants: a token that is written takes longer than one that is read."""
    return max(1, prompt + 2 * answer)


def estimated_tokens(
    *,
    question_chars: int,
    history_chars: int,
    num_passages: int,
    chunk_chars: int,
    context_tokens: int,
    max_tokens: int | None,
) -> Estimate:
    """At least one token. context_tokens: 0 = the tier quotes."""
    passages = num_passages * chunk_chars // CHARS_PER_TOKEN
    question = question_chars // CHARS_PER_TOKEN
    if not context_tokens:
        return Estimate(question + passages, max(1, min(max_tokens or QUOTE_TOKENS, QUOTE_TOKENS)))
    answer = min(max_tokens or ANSWER_TOKENS, context_tokens)
    prompt = INSTRUCTION_TOKENS + question + history_chars // CHARS_PER_TOKEN + passages
    return Estimate(max(0, min(prompt, context_tokens - answer)), max(1, answer))
