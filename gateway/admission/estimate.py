"""How many tokens a request will take, guessed before its passages are known. Pure numbers; settled by the real ones.

A tier that writes has a prompt budget: its context less the answer's part. A tier that quotes counts the word pieces of
what it read and of what it quotes. Both read about so many passages of about so many characters.
"""

from __future__ import annotations

CHARS_PER_TOKEN = 4
QUOTE_TOKENS = 200  # of an answer made of quotes
ANSWER_TOKENS = 512  # of a written one whose request says nothing
INSTRUCTION_TOKENS = 120  # what every prompt of a tier that writes begins with


def estimated_tokens(
    *,
    question_chars: int,
    history_chars: int,
    num_passages: int,
    chunk_chars: int,
    context_tokens: int,
    max_tokens: int | None,
) -> int:
    """Prompt and answer together, >= 1. context_tokens: 0 = the tier quotes."""
    passages = num_passages * chunk_chars // CHARS_PER_TOKEN
    question = question_chars // CHARS_PER_TOKEN
    if not context_tokens:
        return max(1, question + passages + min(max_tokens or QUOTE_TOKENS, QUOTE_TOKENS))
    answer = min(max_tokens or ANSWER_TOKENS, context_tokens)
    prompt = INSTRUCTION_TOKENS + question + history_chars // CHARS_PER_TOKEN + passages
    return max(1, min(prompt, context_tokens - answer) + answer)
