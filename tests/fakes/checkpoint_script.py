"""`PYTHON checkpoint_script.py FOLDER JSON`: small language models of random weights, and what the reference says.

Run in the conversion environment: it needs torch and transformers. JSON: {NAME: {"model_type", "shape": {…}, "prompts":
[…], "num_tokens", "style", "seed"}}. Writes a Hugging Face folder FOLDER/NAME for each, with references.json in it: for
each prompt its ids, its greedy continuation in fp32, that text, and the prompt in the chat template.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "A tide gate lets water through one way and holds back the surge; the miller opens it at ebb.",
    "Ein Sieltor lässt Wasser hinaus, aber nicht herein. Größe, Süße, Öl, Straße, déjà vu, naïve, señor.",
    "Приливные ворота пропускают воду в одну сторону. Ворота закрыты, вода стоит высоко.",
    "潮門は水を一方向に通し、高潮を止めます。东海的潮水很高。水门关上了。조수문은 물을 막는다.",
    "🌊🚪🐟 👩‍🔬 👍🏽 🇩🇪 😀😃😄 🧑‍🚀 emoji are four bytes each, and some are several of them 🌊🌊.",
    'def gate(open: bool) -> str:\n    return "open" if open else "closed"\n\n\tx = [1, 2, 3]\r\n',
]


def make_tokenizer(folder: Path, vocab_size: int, style: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, so that single tokens may hold a part of a character.

    style: where the chat template stands: "file", "string" (in the tokenizer's configuration) or "none".
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(text, special=True) for text in SPECIALS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(folder)
    if style == "file":
        (folder / "chat_template.jinja").write_text(CHATML)
    elif style == "string":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": CHATML}))
    return fast


def make_model(folder: Path, model_type: str, shape: dict, seed: int):
    """Random weights, wide enough that greedy text does not fall into a loop."""
    config = AutoConfig.for_model(model_type, **shape)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                width = 1.0 if "embed" in name or "wte" in name else 2.0 / math.sqrt(weight.shape[-1])
                weight.normal_(0.0, width)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.1)
    model.generation_config.eos_token_id = config.eos_token_id
    model.generation_config.pad_token_id = config.pad_token_id
    model.save_pretrained(folder, safe_serialization=True)
    return model


def reference(model, tokenizer, prompt: str, num_tokens: int) -> dict:
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    with torch.no_grad():
        out = model.generate(
            torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=num_tokens, do_sample=False, eos_token_id=None, pad_token_id=0,
        )  # fmt: skip
    made = out[0, len(ids) :].tolist()
    return {
        "prompt": prompt,
        "prompt_ids": ids,
        "output_ids": made,
        "text": tokenizer.decode(made, skip_special_tokens=True),
        "template": tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        if tokenizer.chat_template
        else "",
    }


def main(folder: Path, spec: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(folder, spec["shape"]["vocab_size"], spec["style"])
    shape = spec["shape"] | {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": None}
    model = make_model(folder, spec["model_type"], shape, spec["seed"])
    if spec["style"] != "none":
        tokenizer.chat_template = CHATML
    found = [reference(model, tokenizer, prompt, spec["num_tokens"]) for prompt in spec["prompts"]]
    (folder / "references.json").write_text(json.dumps(found, ensure_ascii=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, spec in json.loads(sys.argv[2]).items():
        main(Path(sys.argv[1]) / name, spec)
