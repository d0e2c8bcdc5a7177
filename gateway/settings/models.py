"""The models: what embeds, what writes answers, what converts checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    embed_precision: str = setting(
        "auto",
        "Embedding arithmetic: `auto` takes bf16 where the processor has it, else f32; `f16` is of the provider "
        "`tensorrt`.",
        choices=("auto", "bf16", "f16", "f32"),
    )
    embed_provider: str = setting(
        "auto",
        "What the embedding model runs on: `cuda` and `tensorrt` are a GPU's (docs/gpu.md); `auto` takes a GPU through "
        "`cuda` where there is one, else the processor.",
        choices=("auto", "cpu", "cuda", "tensorrt"),
    )
    embed_buckets: str = setting(
        "16,32,64,128,256,512",
        "Lengths (tokens) that batches are padded to on the provider `tensorrt`, which builds one profile for each.",
    )
    embedders: str = setting(
        "",
        "Further embedding models for collections, as NAME=FOLDER,NAME=FOLDER: folders of BERT sentence encoders "
        "(Hugging Face form). A name stands for one model for ever; see docs/embedders.md.",
    )
    embed_threads: int = setting(
        0, "Threads of the embedding runtime; 0 = all cores.", minimum=0, maximum=1024
    )

    checkpoint: str = setting(
        "",
        "Folder of a language model's checkpoint (Hugging Face form): adds the tier `generate`. Several, or other "
        "than default values: TIDEGATE_TIERS_FILE.",
    )
    tiers_file: str = setting(
        "", "TOML file with one table for each generative tier; docs/tiers.md shows all of its fields."
    )
    convert_python: str = setting(
        "",
        "Python that has optimum-intel, for converting checkpoints; empty = the one `make convert-env` makes.",
    )
