"""What every engine asks before it takes a request: is there room for an answer, are these tokens, is a slot free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import EngineFull, InvalidRequest, PromptTooLong
from gateway.ports import GenerationParams


@dataclass(frozen=True)
class SlotGate:
    """context_tokens: prompt and output together."""

    slots: int
    context_tokens: int
    vocab_size: int

    def check(self, prompt_ids: Sequence[int], params: GenerationParams, num_running: int) -> int:
        """How many tokens may be made. Raises: PromptTooLong, InvalidRequest, EngineFull."""
        room = self.context_tokens - len(prompt_ids)
        if room < 1:
            raise PromptTooLong(
                f"the prompt has {len(prompt_ids)} tokens; at most {self.context_tokens - 1} leave room for an answer."
            )
        if not prompt_ids:
            raise InvalidRequest("the prompt has no tokens.")
        if min(prompt_ids) < 0 or max(prompt_ids) >= self.vocab_size:
            raise InvalidRequest(f"token ids must be in 0..{self.vocab_size - 1}.")
        if num_running >= self.slots:
            raise EngineFull(f"all {self.slots} slots are taken.", retry_after_s=1.0)
        return min(params.max_tokens, room)
