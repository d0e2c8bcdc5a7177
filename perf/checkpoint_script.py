"""`PYTHON checkpoint_script.py FOLDER`: a language model of SmolLM2-135M's shape with random weights, in bf16.

Run in the conversion environment: it needs torch and transformers. The tokenizer has a text for every id, as real ones
have, so that a random token costs on its way what a real one costs: byte-level BPE whose merges spell by the letter.
"""

from __future__ import annotations

import itertools
import json
import os
import string
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SHAPE = {
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words(count: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of `count` tokens and the merges that make them: bytes, then words of 2, 3, … letters."""
    vocabulary = {
        text: number for number, text in enumerate([*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    merges = []
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_lowercase, repeat=length):
            head, tail = "Ġ" + "".join(letters[:-1]), letters[-1]  # Ġ is a space in this alphabet
            if len(vocabulary) == count:
                return vocabulary, merges
            vocabulary[head + tail] = len(vocabulary)
            merges.append((head, tail))
    raise AssertionError


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = words(SHAPE["vocab_size"])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHATML}))
    torch.manual_seed(0)
    ends = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None}
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("llama", **SHAPE, **ends), dtype=torch.bfloat16
    )
    model.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
