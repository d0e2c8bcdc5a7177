"""ports.Engine without a model: tokens are a function of the prompt, the seed and their position."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from gateway.errors import EngineFull, InvalidRequest, PromptTooLong, UpstreamError
from gateway.ports import EngineLoad, GenerationParams, TokenStep


@dataclass
class ScriptedEngine:
    """script: the output, whatever the prompt; None = made from prompt and seed. delay_s: before each token.

    tokens_a_step: how many come at once. fail_at_token: raises there. waits: set to let the next token out.
    """

    slots: int = 4
    context_tokens: int = 256
    vocab_size: int = 768
    end_id: int = 2
    script: list[int] | None = None
    delay_s: float = 0.0
    tokens_a_step: int = 1
    fail_at_token: int = -1
    prompts: list[list[int]] = field(default_factory=list)
    _num_running: int = 0
    _num_tokens: int = 0
    _is_closed: bool = False
    is_broken: bool = False

    async def generate(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncIterator[TokenStep]:
        self._check(prompt_ids)
        self.prompts.append(list(prompt_ids))
        self._num_running += 1
        self._num_tokens += len(prompt_ids)
        try:
            most = min(params.max_tokens, self.context_tokens - len(prompt_ids))
            made = self._output(prompt_ids, params, most)
            for at in range(0, len(made), self.tokens_a_step):
                await asyncio.sleep(self.delay_s)
                if self._is_closed:
                    raise UpstreamError("the engine is being closed.")
                if 0 <= self.fail_at_token < at + self.tokens_a_step:
                    raise UpstreamError("the engine failed on this batch.")
                step = made[at : at + self.tokens_a_step]
                is_last = at + self.tokens_a_step >= len(made)
                ended = is_last and not params.ignore_eos and made[-1] == self.end_id
                yield TokenStep(step, ("stop" if ended else "length") if is_last else "")
        finally:
            self._num_running -= 1
            self._num_tokens -= len(prompt_ids)

    def load(self) -> EngineLoad:
        return EngineLoad(
            self._num_running, self.slots, self._num_tokens / (self.slots * self.context_tokens)
        )

    async def close(self) -> None:
        self._is_closed = True

    def _check(self, prompt_ids: Sequence[int]) -> None:
        if len(prompt_ids) >= self.context_tokens:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens; at most {self.context_tokens - 1} leave room for an answer."
            )
        if not prompt_ids or min(prompt_ids) < 0 or max(prompt_ids) >= self.vocab_size:
            raise InvalidRequest(f"token ids must be in 0..{self.vocab_size - 1}.")
        if self._num_running >= self.slots:
            raise EngineFull(f"all {self.slots} slots are taken.")
        if self._is_closed:
            raise UpstreamError("the engine is being closed.")

    def _output(self, prompt_ids: Sequence[int], params: GenerationParams, most: int) -> list[int]:
        if self.script is not None:
            made = self.script
        else:
            seed = None if not params.temperature else params.seed
            if params.temperature and seed is None:
                seed = secrets.randbits(32)
            made = random_tokens(prompt_ids, seed, most, self.vocab_size)
        if not params.ignore_eos and self.end_id in made[:most]:
            return made[: made.index(self.end_id) + 1]
        return made[:most]


def random_tokens(prompt_ids: Sequence[int], seed: int | None, count: int, vocab_size: int) -> list[int]:
    """Equal for equal prompts and seeds. seed: None = greedy."""
    chance = random.Random(f"{seed} {list(prompt_ids)}")
    return [chance.randrange(vocab_size) for _ in range(count)]
