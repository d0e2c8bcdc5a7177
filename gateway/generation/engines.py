"""Which engine a tier gets. Its library is imported here and not before, so that no installation needs the others'."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from gateway.ports import Engine
from gateway.tier_config import GenerateTier


def open_engine(folder: Path, tier: GenerateTier, end_ids: Collection[int]) -> Engine:
    """folder: the tier's prepared checkpoint. Takes seconds to minutes.

    Raises: EngineMissing, and what the library raises.
    """
    if tier.engine == "tensorrt_llm":
        from gateway.generation.trtllm_engine import open_trtllm

        return open_trtllm(folder, tier, end_ids)
    if tier.engine == "vllm":
        from gateway.generation.vllm_engine import open_vllm

        return open_vllm(folder, tier, end_ids)
    from gateway.generation.openvino_engine import OpenVinoEngine

    return OpenVinoEngine(folder, tier, end_ids)
