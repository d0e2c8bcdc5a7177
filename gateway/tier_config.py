"""The generative tiers that the operator configured: TIDEGATE_CHECKPOINT, or several in the file TIDEGATE_TIERS_FILE.

    [small]
    checkpoint = "/models/Qwen2.5-0.5B-Instruct"   # a Hugging Face folder, or one that is converted already
    slots = 16

Owns the file's form and its errors. Refuses to know what a checkpoint holds.
"""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from gateway.settings import Settings, SettingsError

DEFAULT_NAME = "generate"  # of the one tier that TIDEGATE_CHECKPOINT makes
TAKEN = ("auto", "fast", "deep", "embed", "search", "rerank", "retrieve", "reader")
Name = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,31}\Z")]
WEIGHTS = ("int8", "int4", "bf16", "f32")


class GenerateTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One generative tier.

    slots: requests that one Triton replica works on at once. context_tokens: prompt and answer together; slots x
    context_tokens is the cache that is set aside. max_tokens: of an answer whose request names none. num_threads:
    0 = all cores. weights: how they are kept; f32 alone is exact.
    """

    checkpoint: str
    name: str = DEFAULT_NAME
    description: str = "Writes an answer from the passages and cites them."
    slots: Annotated[int, Meta(ge=1, le=1024)] = 8
    context_tokens: Annotated[int, Meta(ge=64, le=1_048_576)] = 4096
    max_tokens: Annotated[int, Meta(ge=1, le=1_048_576)] = 512
    num_passages: Annotated[int, Meta(ge=1, le=64)] = 8
    num_threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    weights: Literal["int8", "int4", "bf16", "f32"] = "int8"
    temperature: Annotated[float, Meta(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0


def generate_tiers(settings: Settings) -> list[GenerateTier]:
    """In the file's order; empty when none is configured. Paths count from the file's folder.

    Raises: SettingsError, one sentence that names the setting, the tier and the field.
    """
    if settings.checkpoint and settings.tiers_file:
        raise SettingsError(
            "TIDEGATE_CHECKPOINT and TIDEGATE_TIERS_FILE are both set: name the checkpoint in the file."
        )
    if settings.checkpoint:
        return [_for_all_workers(GenerateTier(checkpoint=settings.checkpoint), settings)]
    if not settings.tiers_file:
        return []
    path = Path(settings.tiers_file)
    return [_for_all_workers(_tier(path, name, fields), settings) for name, fields in _tables(path).items()]


def _for_all_workers(tier: GenerateTier, settings: Settings) -> GenerateTier:
    """Slots are shared out among the gateway's workers, and each needs one: fewer are raised to that."""
    least = math.ceil(settings.num_workers / settings.triton_replicas)
    return msgspec.structs.replace(tier, slots=max(tier.slots, least))


def _tables(path: Path) -> dict[str, object]:
    where = f"TIDEGATE_TIERS_FILE={path}"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{where} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where} is not TOML: {error}.") from None


def _tier(path: Path, name: str, fields: object) -> GenerateTier:
    where = f"TIDEGATE_TIERS_FILE={path}: [{name}]"
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise SettingsError(f"{where} is no name for a tier: use a-z, 0-9, - and _, at most 32.") from None
    if name in TAKEN:
        raise SettingsError(f"{where}: that name is taken; choose another.")
    try:
        tier = msgspec.convert(fields, GenerateTier)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}.") from None
    if tier.max_tokens >= tier.context_tokens:
        raise SettingsError(f"{where}: max_tokens must be smaller than context_tokens.")
    folder = path.parent / Path(tier.checkpoint).expanduser()
    return msgspec.structs.replace(tier, name=name, checkpoint=str(folder))
