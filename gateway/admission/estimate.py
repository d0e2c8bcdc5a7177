"""How many tokens a request will take, guessed before its passages are known. Pure numbers; settled by the real ones.

A tier that writes sets up to half of its context aside for the answer, and the prompt has the rest. The answer may be
as long as the request says, or the tier's setting where it says nothing. A tier that quotes counts the word pieces of
what it read and of what it quotes. Both read about so many passages of about so many characters.
"""

from __future__ import annotations

from typing import NamedTuple

CHARS_PER_TOKEN = 4
QUOTE_TOKENS = 200  # of an answer made of quotes
INSTRUCTION_TOKENS = 120  # what every prompt of a tier that writes begins with
ANSWER_SHARE = 0.5  # of the context that an answer sets aside at most, as generation.prompt has it


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
    tier_max_tokens: int,
) -> Estimate:
    """At least one token. context_tokens: 0 = the tier quotes. max_tokens: of the request; None = the tier's own."""
    passages = num_passages * chunk_chars // CHARS_PER_TOKEN
    question = question_chars // CHARS_PER_TOKEN
    if not context_tokens:
        return Estimate(question + passages, max(1, min(max_tokens or QUOTE_TOKENS, QUOTE_TOKENS)))
    answer = min(max_tokens or tier_max_tokens, context_tokens)
    prompt = INSTRUCTION_TOKENS + question + history_chars // CHARS_PER_TOKEN + passages
    prompt = min(prompt, context_tokens - min(answer, int(context_tokens * ANSWER_SHARE)))
    return Estimate(prompt, max(1, min(answer, context_tokens - prompt)))
