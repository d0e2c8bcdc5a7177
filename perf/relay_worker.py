"""A gateway worker of the relay benchmark: gateway.app as it is, but that its generative tiers need no checkpoint.

The tiers come from TIDEGATE_TIERS_FILE and their models are perf/models/; prompts are built and counted with the
sentence encoder's tokenizer, so that this work is done as in service. `python -m perf.relay_worker INDEX`.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

import uvloop
from tokenizers import Tokenizer

from gateway.app import serve
from gateway.embedding.export import TOKENIZER_FILE, prepare_embedder
from gateway.generation.prompt import Message
from gateway.generation.triton_generator import TritonGenerator
from gateway.settings import Settings, load_settings
from gateway.tier_config import GenerateTier
from gateway.triton import TritonClient

log = logging.getLogger("tidegate.perf")


class BorrowedFormat:
    """generation.prompt.Format over the encoder's tokenizer, with ChatML's marks around each turn."""

    def __init__(self, tokenizer_file: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def render(self, messages: list[Message]) -> str:
        turns = [f"<|im_start|>{each['role']}\n{each['content']}<|im_end|>\n" for each in messages]
        return "".join(turns) + "<|im_start|>assistant\n"

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def count_many(self, texts: list[str]) -> list[int]:
        return [len(each.ids) for each in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


async def make_generator(triton: TritonClient, tier: GenerateTier, settings: Settings) -> TritonGenerator:
    folder = await asyncio.to_thread(prepare_embedder, settings.models_dir, log.info)
    return TritonGenerator(triton, tier, BorrowedFormat(folder / TOKENIZER_FILE))


def main() -> int:
    settings = load_settings()
    logging.basicConfig(level=settings.log_level.upper(), stream=sys.stderr)
    uvloop.run(serve(settings, int(sys.argv[1]), make_generator))
    return 0


if __name__ == "__main__":
    sys.exit(main())
