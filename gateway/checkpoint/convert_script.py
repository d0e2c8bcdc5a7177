"""`PYTHON convert_script.py SOURCE DESTINATION WEIGHTS`: a Hugging Face folder becomes an OpenVINO model.

Run by path in the conversion environment (.venv/convert), so it imports nothing of ours. Prints a line for each step.
The last line of a failure is its cause. Code that a checkpoint carries is never run, and nothing is fetched.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

INT4_GROUPS = (128, 64, 32, 16)  # weights that share a scale; must divide the width of every matrix


def say(line: str) -> None:
    print(line, flush=True)


def main(source: str, destination: str, weights: str) -> None:
    # Before the first import of a library that reads them.
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    warnings.simplefilter("ignore")
    say("loading the converter")
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(source, local_files_only=True)
    say(f"converting {config.model_type} to OpenVINO")
    main_export(
        source,
        destination,
        task="text-generation-with-past",
        library_name="transformers",
        local_files_only=True,
        trust_remote_code=False,
        convert_tokenizer=False,
        # Without any configuration the exporter would make large models int8 by itself.
        ov_config=OVConfig(dtype="fp32" if weights == "f32" else "bf16"),
        model_loading_kwargs={"torch_dtype": "bfloat16"} if weights == "bf16" else None,
    )
    if weights in {"int8", "int4"}:
        say(f"compressing the weights to {weights}")
        compress(Path(destination) / "openvino_model.xml", weights, config)
    say(f"converted with {', '.join(versions())}")


def compress(path: Path, weights: str, config: object) -> None:
    """In place. Embeddings and the last matrix keep 8 bits in either case."""
    import nncf
    import openvino

    nncf.set_log_level(logging.WARNING)  # its tables are no progress
    model = openvino.Core().read_model(path)
    if weights == "int8":
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    else:
        model = nncf.compress_weights(
            model, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=int4_group(config), ratio=1.0
        )
    draft = path.with_name("compressed.xml")
    openvino.save_model(model, draft, compress_to_fp16=False)
    for suffix in (".xml", ".bin"):
        os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))


def int4_group(config: object) -> int:
    """The largest group that divides what the matrices are wide; -1 = a whole row shares a scale."""
    widths = [int(getattr(config, name, 0) or 0) for name in ("hidden_size", "intermediate_size")]
    return next((size for size in INT4_GROUPS if all(width % size == 0 for width in widths)), -1)


def versions() -> list[str]:
    from importlib.metadata import version

    return [f"{name} {version(name)}" for name in ("optimum-intel", "transformers", "openvino", "nncf")]


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:  # noqa: BLE001 - the edge of the process
        text = " ".join(str(error).split())
        sys.exit(f"{type(error).__name__}: {text[:500]}")
