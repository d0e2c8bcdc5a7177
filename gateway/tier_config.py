"""The generative tiers that the operator configured: TIDEGATE_CHECKPOINT, or several in the file TIDEGATE_TIERS_FILE.

    [small]
    checkpoint = "/models/Qwen2.5-0.5B-Instruct"   # a Hugging Face folder, or one that is converted already
    slots = 16

    [large]
    base_url = "http://vllm.internal:8000/v1"      # any server that speaks OpenAI's chat completions
    model = "llama-3.3-70b"

Owns the file's form and its errors. Refuses to know what a checkpoint holds and whether a server answers.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from gateway.settings import PREFIX, Settings, SettingsError

DEFAULT_NAME = "generate"  # of the one tier that TIDEGATE_CHECKPOINT makes
QUOTING = ("fast", "deep")
TAKEN = ("auto", *QUOTING, "embed", "search", "rerank", "retrieve", "reader")
Name = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9_-]{0,31}\Z")]
Tokens = Annotated[int, Meta(ge=1, le=1_048_576)]
Context = Annotated[int, Meta(ge=64, le=1_048_576)]
NumPassages = Annotated[int, Meta(ge=1, le=64)]
Slots = Annotated[int, Meta(ge=1, le=1024)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(gt=0, le=1)]
Seconds = Annotated[float, Meta(ge=0.05, le=3600)]
WEIGHTS = ("int8", "int4", "bf16", "f32")
ENGINES = ("openvino", "tensorrt_llm", "vllm")
FALLBACK = ("deep", "fast")  # quoting needs no language model, so it is there when one is not


class GenerateTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One generative tier whose checkpoint runs here.

    slots: requests that one Triton replica works on at once. context_tokens: prompt and answer together; slots x
    context_tokens is the cache that is set aside. max_tokens: of an answer whose request names none. num_threads:
    0 = all cores. weights: how they are kept; f32 alone is exact. fallback: tiers to answer in its place, in order.

    engine: openvino runs on the processor, the others on GPUs. Theirs alone: tensor_parallel x pipeline_parallel GPUs
    hold one copy of the model; gpu_memory: share of a GPU's memory for the engine; batch_tokens: that one step works
    on; kv_cache: how keys and values are kept.
    """

    checkpoint: str
    name: str = DEFAULT_NAME
    description: str = "Writes an answer from the passages and cites them."
    slots: Slots = 8
    context_tokens: Context = 4096
    max_tokens: Tokens = 512
    num_passages: NumPassages = 8
    num_threads: Annotated[int, Meta(ge=0, le=1024)] = 0
    weights: Literal["int8", "int4", "bf16", "f32"] = "int8"
    temperature: Temperature = 0.0
    top_p: TopP = 1.0
    fallback: tuple[str, ...] = FALLBACK
    engine: Literal["openvino", "tensorrt_llm", "vllm"] = "openvino"
    tensor_parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    pipeline_parallel: Annotated[int, Meta(ge=1, le=64)] = 1
    gpu_memory: Annotated[float, Meta(gt=0, lt=1)] = 0.9
    batch_tokens: Annotated[int, Meta(ge=64, le=1_048_576)] = 8192
    kv_cache: Literal["auto", "fp8"] = "auto"

    @property
    def continues(self) -> bool:
        """Whether an answer can be gone on with: our models take the tokens of its beginning."""
        return True

    @property
    def is_on_gpu(self) -> bool:
        return self.engine != "openvino"


CPU_FIELDS = ("num_threads", "weights")
GPU_FIELDS = ("tensor_parallel", "pipeline_parallel", "gpu_memory", "batch_tokens", "kv_cache")


class UpstreamTier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One generative tier on a server of somebody else that speaks OpenAI's chat completions.

    api_key_env: NAME of the environment variable that holds the key. slots: requests in flight there at once, over all
    gateway workers. tokenizer: folder of the model's tokenizer, for exact counts; "" = counts are estimated, high.
    The timeouts are of one wait each (seconds). temperature, top_p: None = the server's own. json_schema: the server
    holds an answer to the schema of `response_format`. continues: it goes on with the words of an assistant where the
    messages end with one, as vLLM and SGLang do when `continue_final_message` asks for it.
    """

    base_url: str
    model: str
    name: str = ""
    description: str = "Writes an answer from the passages on another server and cites them."
    api_key_env: str = ""
    slots: Slots = 8
    context_tokens: Context = 4096
    max_tokens: Tokens = 512
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    num_passages: NumPassages = 8
    tokenizer: str = ""
    temperature: Temperature | None = None
    top_p: TopP | None = None
    connect_s: Seconds = 2.0
    first_token_s: Seconds = 20.0
    between_tokens_s: Seconds = 10.0
    json_schema: bool = False
    continues: bool = False
    ca_file: str = ""
    proxy: str = ""
    fallback: tuple[str, ...] = FALLBACK


ConfiguredTier = GenerateTier | UpstreamTier


def configured_tiers(settings: Settings) -> list[ConfiguredTier]:
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
    tiers = [_for_all_workers(_tier(path, name, fields), settings) for name, fields in _tables(path).items()]
    _check_fallbacks(path, tiers)
    return tiers


def generate_tiers(settings: Settings) -> list[GenerateTier]:
    """Those that run on our Triton. Raises: SettingsError."""
    return [tier for tier in configured_tiers(settings) if isinstance(tier, GenerateTier)]


def upstream_tiers(settings: Settings) -> list[UpstreamTier]:
    """Those on other servers. Raises: SettingsError."""
    return [tier for tier in configured_tiers(settings) if isinstance(tier, UpstreamTier)]


def api_key(tier: UpstreamTier, environ: Mapping[str, str]) -> str:
    """The key that the tier's variable holds; "" where it names none. Raises: SettingsError, without the value."""
    name = tier.api_key_env
    if not name:
        return ""
    key = environ.get(name, "").strip()
    if not key:
        raise SettingsError(f"Tier {tier.name!r}: the environment variable {name} (api_key_env) is not set.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"Tier {tier.name!r}: the environment variable {name} does not hold a key.")
    return key


def _for_all_workers(tier: ConfiguredTier, settings: Settings) -> ConfiguredTier:
    """Slots are shared out among the gateway's workers, and each needs one: fewer are raised to that."""
    num_servers = settings.triton_replicas if isinstance(tier, GenerateTier) else 1
    least = math.ceil(settings.num_workers / num_servers)
    return msgspec.structs.replace(tier, slots=max(tier.slots, least))


def _tables(path: Path) -> dict[str, object]:
    where = f"TIDEGATE_TIERS_FILE={path}"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{where} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{where} is not TOML: {error}.") from None


def _tier(path: Path, name: str, fields: object) -> ConfiguredTier:
    where = f"TIDEGATE_TIERS_FILE={path}: [{name}]"
    try:
        msgspec.convert(name, Name)
    except msgspec.ValidationError:
        raise SettingsError(f"{where} is no name for a tier: use a-z, 0-9, - and _, at most 32.") from None
    if name in TAKEN:
        raise SettingsError(f"{where}: that name is taken; choose another.")
    kind: Any = UpstreamTier if isinstance(fields, dict) and "base_url" in fields else GenerateTier
    try:
        tier: ConfiguredTier = msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}.") from None
    if tier.max_tokens >= tier.context_tokens:
        raise SettingsError(f"{where}: max_tokens must be smaller than context_tokens.")
    if isinstance(tier, UpstreamTier):
        wrong = _wrong_with(tier)
        if wrong:
            raise SettingsError(f"{where}: {wrong}.")
        return msgspec.structs.replace(
            tier,
            name=name,
            base_url=tier.base_url.rstrip("/"),
            tokenizer=_from(path, tier.tokenizer),
            ca_file=_from(path, tier.ca_file),
        )
    foreign = _foreign_field(tier)
    if foreign:
        raise SettingsError(f"{where}: {foreign}.")
    return msgspec.structs.replace(tier, name=name, checkpoint=_from(path, tier.checkpoint))


def _foreign_field(tier: GenerateTier) -> str:
    """What would be set in vain: a field of the other kind of engine, with another value than its default."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(GenerateTier)}
    for name in CPU_FIELDS if tier.is_on_gpu else GPU_FIELDS:
        if getattr(tier, name) != defaults[name]:
            why = "a GPU engine takes the checkpoint as it is" if name == "weights" else "only others have it"
            return f"{name} does not go with engine {tier.engine!r}, {why}"
    return ""


def _from(path: Path, text: str) -> str:
    """A path as the tiers file means it; "" stays."""
    return str(path.parent / Path(text).expanduser()) if text else ""


def _wrong_with(tier: UpstreamTier) -> str:
    """What no type can say. The file is shown by `doctor` and in logs, so no secret may stand in it."""
    for field in ("base_url", "proxy"):
        url = getattr(tier, field)
        if url and not _is_plain_url(url):
            return f"{field} is not a plain http or https URL (without user, password, ? and #)"
    if not tier.model:
        return "model is empty"
    if tier.api_key_env and not tier.api_key_env.isidentifier():
        return "api_key_env is no name of an environment variable; the key itself does not belong here"
    if tier.api_key_env.startswith(PREFIX):
        return f"api_key_env may not begin with {PREFIX}, which is for settings"
    return ""


def _is_plain_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        return False
    if not url.isascii() or any(mark in url for mark in " \t\r\n?#"):
        return False
    return is_url and parts.username is None and parts.password is None


def _check_fallbacks(path: Path, tiers: Sequence[ConfiguredTier]) -> None:
    """Raises: SettingsError for a name that is no tier, comes twice, or is the tier's own."""
    known = [*QUOTING, *(tier.name for tier in tiers)]
    for tier in tiers:
        for number, name in enumerate(tier.fallback):
            if name not in known or name == tier.name or name in tier.fallback[:number]:
                raise SettingsError(
                    f"TIDEGATE_TIERS_FILE={path}: [{tier.name}]: fallback names {name!r}, which is not another tier "
                    f"(once each; there are: {', '.join(each for each in known if each != tier.name)})."
                )
