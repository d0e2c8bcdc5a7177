"""All settings, in one table: name, unit, default, help. Explicit argument > TIDEGATE_* environment > default.

An unknown TIDEGATE_ name or a bad value stops the start with one sentence that names it. Ports that are not set
follow TIDEGATE_PORT, so a second instance needs only another TIDEGATE_PORT and TIDEGATE_VAR.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "TIDEGATE_"
LOOPBACK = ("127.0.0.1", "::1", "localhost")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9._-]{0,63}")  # as values of Kubernetes' labels


class SettingsError(ValueError):
    """A setting is unknown or its value is bad. The text is one sentence, fit to print."""


def _bool(text: str) -> bool:
    known = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }
    try:
        return known[text.strip().lower()]
    except KeyError:
        raise ValueError("expected one of 1, 0, true, false, yes, no, on, off") from None


def _absolute_sqlite(url: str) -> str:
    """A relative SQLite file counts from where the command was given, in every process."""
    scheme, separator, file = url.partition(":///")
    if not scheme.startswith("sqlite") or not separator or not file or file.startswith(("/", ":memory:")):
        return url
    return f"{scheme}:///{_path(file)}"


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


_PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _bool,
    "Path": _path,
}


def _setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    secret: bool = False,
) -> Any:
    meta = {"help": help, "minimum": minimum, "maximum": maximum, "choices": choices, "secret": secret}
    return field(default=default, repr=not secret, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an operator may set. Fields are in reading order; each is TIDEGATE_<NAME> in the environment."""

    var: Path = _setting(Path("var"), "Folder of all state: database, files, models, logs.")
    host: str = _setting(
        "127.0.0.1",
        "Address that Envoy's public listener binds. Anything but loopback needs TIDEGATE_AUTH=required.",
    )
    port: int = _setting(8080, "Public port of Envoy. The other ports follow it.", minimum=1, maximum=65000)
    inner_port: int = _setting(
        0,
        "Loopback port of Envoy's gRPC balancer over the Triton replicas; 0 = port + 1.",
        minimum=0,
        maximum=65535,
    )
    part_host: str = _setting(
        "127.0.0.1",
        "Address that gateway workers and Triton with its guard bind; in a cluster, where each part has an address of "
        "its own, 0.0.0.0. Anything but loopback needs TIDEGATE_AUTH=required.",
    )
    gateway_host: str = _setting(
        "",
        "DNS name of whose addresses each is a gateway worker, where the workers run elsewhere (docs/deploy.md); "
        "empty = they run here.",
    )
    triton_hosts: str = _setting(
        "",
        "DNS names of whose addresses each is a Triton replica, where they run elsewhere: HOST for retrieval and "
        "quoting, then TIER=HOST for each generative tier (docs/deploy.md); empty = they run here.",
    )
    canary_hosts: str = _setting(
        "",
        "As TIER=HOST,TIER=HOST: where a tier's canary runs. While it has replicas it gets the share of "
        "conversations that TIDEGATE_CANARY_PERCENT names; a conversation stays on one side.",
    )
    canary_percent: int = _setting(
        5, "Share of conversations that a tier's canary gets (percent).", minimum=1, maximum=50
    )
    triton_serves: str = _setting(
        "",
        "What this Triton loads, as NAME,NAME: `retrieval` (searching and quoting), or generative tiers by name; "
        "empty = everything.",
    )
    model_version: str = _setting(
        "",
        "Version of the models that this Triton serves, as its rollout names it (docs/deploy.md): letters, digits, "
        "`.`, `_` and `-`. Answers are remembered and judged by it.",
    )
    auth: str = _setting(
        "development",
        "`development`: loopback callers without a key are the default tenant; `required`: every call needs a key.",
        choices=("development", "required"),
    )
    log_level: str = _setting(
        "info", "Log level of our own processes.", choices=("debug", "info", "warning", "error")
    )
    log_format: str = _setting(
        "json", "Log lines of our own processes: one JSON object each, or text.", choices=("json", "text")
    )

    gateway_workers: int = _setting(
        0, "Gateway processes; 0 = half of the cores, at least 1.", minimum=0, maximum=256
    )
    triton_replicas: int = _setting(1, "Triton processes behind the balancer.", minimum=1, maximum=64)
    database_url: str = _setting("", "SQLAlchemy URL; empty = SQLite in the var folder.", secret=True)
    vector_store: str = _setting(
        "faiss",
        "Where vectors are searched: `faiss`, in the model `search` itself; or `milvus:URI`, with the URI "
        "http://host:19530 or http://host:19530/database.",
    )
    milvus_token: str = _setting("", "Milvus token (`user:password` or an API key).", secret=True)
    milvus_timeout_s: float = _setting(
        3.0, "Longest wait for one call of Milvus while searching (seconds).", minimum=0.1, maximum=8
    )
    snapshot_chunks: int = _setting(
        10_000,
        "Changed chunks after which `search` saves its FAISS index for the next start; of a large corpus a tenth. "
        "0 = never.",
        minimum=0,
    )
    search_device: str = _setting(
        "cpu",
        "Where FAISS searches large collections: `gpu` needs a FAISS that was built for GPUs; see docs/gpu.md.",
        choices=("cpu", "gpu"),
    )
    index_threads: int = _setting(
        0,
        "Threads that build a graph over a large collection; 0 = half of the cores.",
        minimum=0,
        maximum=1024,
    )
    redis_url: str = _setting("", "Redis URL; empty = our own redis-server in the var folder.", secret=True)
    redis_server: str = _setting(
        "", "Path of redis-server; empty = the one on PATH if it is >= 7, else the bundled one."
    )
    envoy_bin: str = _setting("", "Path of envoy; empty = the bundled one, else the one on PATH.")
    triton_home: str = _setting("", "Folder that holds Triton's bin/ and backends/; empty = the bundled one.")

    embed_precision: str = _setting(
        "auto",
        "Embedding arithmetic: `auto` takes bf16 where the processor has it, else f32; `f16` is of the provider "
        "`tensorrt`.",
        choices=("auto", "bf16", "f16", "f32"),
    )
    embed_provider: str = _setting(
        "auto",
        "What the embedding model runs on: `cuda` and `tensorrt` are a GPU's (docs/gpu.md); `auto` takes a GPU through "
        "`cuda` where there is one, else the processor.",
        choices=("auto", "cpu", "cuda", "tensorrt"),
    )
    embed_buckets: str = _setting(
        "16,32,64,128,256,512",
        "Lengths (tokens) that batches are padded to on the provider `tensorrt`, which builds one profile for each.",
    )
    embedders: str = _setting(
        "",
        "Further embedding models for collections, as NAME=FOLDER,NAME=FOLDER: folders of BERT sentence encoders "
        "(Hugging Face form). A name stands for one model for ever; see docs/embedders.md.",
    )
    embed_threads: int = _setting(
        0, "Threads of the embedding runtime; 0 = all cores.", minimum=0, maximum=1024
    )

    checkpoint: str = _setting(
        "",
        "Folder of a language model's checkpoint (Hugging Face form): adds the tier `generate`. Several, or other "
        "than default values: TIDEGATE_TIERS_FILE.",
    )
    tiers_file: str = _setting(
        "", "TOML file with one table for each generative tier; docs/tiers.md shows all of its fields."
    )
    convert_python: str = _setting(
        "",
        "Python that has optimum-intel, for converting checkpoints; empty = the one `make convert-env` makes.",
    )

    retrieval_slots: int = _setting(
        64, "Retrieve and embed calls that one gateway worker has in flight on Triton at once.", minimum=1
    )
    fast_slots: int = _setting(
        8, "Requests of tier `fast` that one Triton replica works on at once.", minimum=1, maximum=10000
    )
    deep_slots: int = _setting(
        4, "Requests of tier `deep` that one Triton replica works on at once.", minimum=1, maximum=10000
    )
    queue_max: int = _setting(
        512,
        "Requests that may wait for a slot of one tier, over all workers; beyond it the one with the least right to a "
        "place is refused with 503.",
        minimum=0,
    )
    queue_max_mb: int = _setting(
        64, "Text that may wait for a slot of one tier, over all workers (MiB).", minimum=1, maximum=65_536
    )
    queue_ttl_s: float = _setting(
        30.0, "Longest wait for a slot (seconds) before the request is evicted.", minimum=0.01
    )
    headroom: float = _setting(
        0.0,
        "Part of a tier's slots that a tenant with clearly more than an equal share leaves free for light ones; 0 = a "
        "light tenant may wait for a slot (docs/queue.md).",
        minimum=0,
        maximum=0.5,
    )
    adaptive_tiers: str = _setting(
        "",
        "Tiers with fewer slots while their engine is slow to begin, as NAME,NAME; empty = always as many as "
        "configured (docs/queue.md).",
    )
    auto_tiers: str = _setting(
        "",
        "Tiers that `auto` may choose among, as NAME,NAME; empty = those that quote. A tier that writes is chosen only "
        "if it is named here; see docs/degradation.md.",
    )
    ladder_eta_s: float = _setting(
        5.0,
        "Expected wait for a slot (seconds) that counts as full pressure: from half of it on answers get cheaper, step "
        "by step; from four times it on requests are refused. 0 = waiting degrades nothing.",
        minimum=0,
        maximum=3600,
    )
    ladder_lag_s: float = _setting(
        2.0,
        "Lag of a gateway worker's event loop (seconds) that counts as full pressure. 0 = lag degrades nothing.",
        minimum=0,
        maximum=60,
    )
    request_timeout_s: float = _setting(120.0, "Deadline of a request that sets none (seconds).", minimum=0.1)

    tenant_requests_per_minute: int = _setting(
        0,
        "Requests a tenant may make in a minute, unless it has a limit of its own (docs/limits.md); 0 = unlimited.",
        minimum=0,
    )
    tenant_tokens_per_minute: int = _setting(
        0, "Tokens, of prompts and answers, that a tenant may use in a minute; 0 = unlimited.", minimum=0
    )
    tenant_concurrent_streams: int = _setting(
        0, "Answers that a tenant may have running at once; 0 = unlimited.", minimum=0
    )
    tenant_monthly_tokens: int = _setting(
        0, "Tokens that a tenant may use in a calendar month (UTC); 0 = unlimited.", minimum=0
    )

    cache: bool = _setting(
        True, "Whether answers are remembered and given again while their evidence stands (docs/cache.md)."
    )
    cache_mb: int = _setting(
        64, "Memory for remembered answers in one gateway worker (MiB).", minimum=1, maximum=65_536
    )
    cache_tenant_percent: int = _setting(
        50, "Share of that memory that one tenant may hold (percent).", minimum=1, maximum=100
    )
    cache_shared_answers: int = _setting(
        20_000,
        "Remembered answers of one tenant in Redis; the oldest give way. 0 = none are kept there.",
        minimum=0,
        maximum=10_000_000,
    )
    cache_ttl_s: float = _setting(
        86_400.0, "Longest life of a remembered answer (seconds).", minimum=1, maximum=2_592_000
    )
    cache_ttl_collections: str = _setting(
        "",
        "Shorter lives, as COLLECTION=SECONDS,...: an answer from several collections lives as long as the shortest.",
    )
    cache_false_hits: float = _setting(
        0.005,
        "Share of hits by similarity that may be wrong: near questions share an answer only where that holds with "
        "95 % confidence. 0 = only the same question gets a remembered answer.",
        minimum=0,
        maximum=0.1,
    )
    cache_weight: float = _setting(
        0.1, "What a remembered answer counts, as a share of the tokens it first took.", minimum=0, maximum=1
    )
    cache_opt_out: str = _setting(
        "", "Tenants of whom no answer is remembered, as ID,ID (`tidegate tenants list` shows the ids)."
    )

    watch: bool = _setting(
        False,
        "Start Prometheus and Alertmanager beside the service, where they are installed (docs/watching.md).",
    )
    otlp_endpoint: str = _setting(
        "",
        "Base URL of an OpenTelemetry collector, which takes traces over HTTP, such as http://127.0.0.1:4318; empty = "
        "what OTEL_EXPORTER_OTLP_ENDPOINT says, and no traces without it (docs/watching.md).",
    )
    alert_actions: str = _setting(
        "on",
        "What is done about alerts that Alertmanager sends to /admin/alerts: `on` what they ask for; `dry_run` an "
        "audit line and nothing more.",
        choices=("on", "dry_run"),
    )
    max_body_bytes: int = _setting(4 * 2**20, "Largest JSON body (bytes).", minimum=1024)
    max_file_bytes: int = _setting(64 * 2**20, "Largest uploaded file (bytes).", minimum=1024)
    max_messages: int = _setting(1000, "Most messages in one chat request.", minimum=1)
    max_conversation_messages: int = _setting(
        2000, "Most messages that one stored conversation may hold.", minimum=2
    )
    max_question_chars: int = _setting(
        32_000, "Longest text of one message (characters).", minimum=1, maximum=32_000
    )
    keepalive_s: float = _setting(
        15.0,
        "Silence in a stream (seconds) before a comment is sent; the first one comes within 1 s.",
        minimum=0.05,
        maximum=60,
    )
    drain_s: float = _setting(
        20.0, "Time that open requests get to finish when the service stops (seconds).", minimum=0
    )

    slow_reader_s: float = _setting(
        30.0,
        "Longest time that a reader may take nothing of what waits for it (seconds); then its connection is cut.",
        minimum=0.05,
        maximum=300,
    )
    worker_memory_mb: int = _setting(
        0,
        "Memory of one gateway worker (MiB) above which it refuses new work; 0 = go by the limit of the container "
        "that it runs in, if there is one.",
        minimum=0,
    )
    edge_processes: int = _setting(
        1,
        "Envoy processes that share the public port. One holds about half as many connections as it may open files.",
        minimum=1,
        maximum=6,
    )
    edge_connections: int = _setting(
        0,
        "Client connections that one Envoy process holds; 0 = as many as its open files allow.",
        minimum=0,
    )
    edge_requests_per_s: int = _setting(
        10_000,
        "Requests that Envoy lets through in a second, from all clients together; it refuses more with 503. "
        "0 = no limit.",
        minimum=0,
        maximum=1_000_000,
    )
    edge_heap_mb: int = _setting(
        2048,
        "Memory of one Envoy process (MiB). Near it Envoy gives up idle connections, then refuses requests.",
        minimum=64,
    )

    chunk_chars: int = _setting(900, "Aimed-at length of a chunk (characters).", minimum=100, maximum=20000)
    chunk_overlap_chars: int = _setting(
        150, "Text shared by neighbouring chunks (characters).", minimum=0, maximum=5000
    )
    ingest_batch: int = _setting(32, "Chunks embedded in one call while ingesting.", minimum=1, maximum=512)
    ingest_max_pages: int = _setting(
        2000, "Most pages of a PDF that is read; a longer one fails.", minimum=1, maximum=100_000
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check(spec, getattr(self, spec.name))
        if self.chunk_overlap_chars >= self.chunk_chars:
            raise SettingsError("TIDEGATE_CHUNK_OVERLAP_CHARS must be smaller than TIDEGATE_CHUNK_CHARS.")
        for name in ("host", "part_host"):
            address = getattr(self, name)
            if self.auth == "development" and address not in LOOPBACK:
                raise SettingsError(
                    f"{PREFIX}{name.upper()}={address} is not loopback: set TIDEGATE_AUTH=required as well."
                )
        _hosts(self.triton_hosts, "TRITON_HOSTS")
        if not _VERSION.fullmatch(self.model_version):
            raise SettingsError(
                f"TIDEGATE_MODEL_VERSION={self.model_version[:80]!r} is not a version's name."
            )
        if "" in _hosts(self.canary_hosts, "CANARY_HOSTS"):
            raise SettingsError("TIDEGATE_CANARY_HOSTS takes TIER=HOST only.")
        _check_vector_store(self.vector_store)
        _lives(self.cache_ttl_collections)

    # Derived values. Ports: one block of 100 above the public port.

    @property
    def triton_target(self) -> str:
        return f"127.0.0.1:{self.inner_port or self.port + 1}"

    @property
    def envoy_admin_port(self) -> int:
        return self.port + 2

    @property
    def envoy_stats_port(self) -> int:
        """Where an Envoy that runs by itself tells its metrics."""
        return self.port + 290

    @property
    def prometheus_port(self) -> int:
        return self.port + 280

    @property
    def alertmanager_port(self) -> int:
        return self.port + 281

    @property
    def hosts_of_triton(self) -> dict[str, str]:
        """DNS name of the replicas by generative tier; "" = retrieval and quoting. Empty when Triton runs here."""
        return _hosts(self.triton_hosts, "TRITON_HOSTS")

    @property
    def hosts_of_canaries(self) -> dict[str, str]:
        """DNS name of a tier's canaries by the tier's name."""
        return _hosts(self.canary_hosts, "CANARY_HOSTS")

    @property
    def ttl_s_of_collections(self) -> dict[str, float]:
        """Life of an answer from a collection, by the collection's id."""
        return _lives(self.cache_ttl_collections)

    def edge_admin_port(self, index: int) -> int:
        """Of one of the Envoy processes; the first one's is envoy_admin_port."""
        return self.envoy_admin_port if index == 0 else self.port + 4 + index

    def edge_access_log(self, index: int) -> Path:
        return self.log_dir / (f"envoy-access-{index}.log" if index else "envoy-access.log")

    @property
    def redis_port(self) -> int:
        return self.port + 3

    @property
    def supervisor_port(self) -> int:
        return self.port + 4

    @property
    def num_workers(self) -> int:
        return self.gateway_workers or max(1, (os.cpu_count() or 2) // 2)

    def worker_port(self, index: int) -> int:
        return self.port + 10 + index

    def worker_grpc_port(self, index: int) -> int:
        return self.port + 600 + index

    def triton_ports(self, replica: int) -> tuple[int, int, int, int]:
        """gRPC, HTTP, metrics and guard-health ports of one replica."""
        base = self.port + 300 + 4 * replica
        return base, base + 1, base + 2, base + 3

    @property
    def sql_url(self) -> str:
        return self.database_url or f"sqlite:///{self.var / 'tidegate.db'}"

    @property
    def milvus_uri(self) -> str:
        """Empty when FAISS is the vector store."""
        kind, _, uri = self.vector_store.partition(":")
        return uri if kind == "milvus" else ""

    @property
    def files_dir(self) -> Path:
        return self.var / "files"

    @property
    def search_dir(self) -> Path:
        """Work folders of the search processes and the snapshot that they start from."""
        return self.var / "search"

    @property
    def models_dir(self) -> Path:
        return self.var / "models"

    @property
    def run_dir(self) -> Path:
        return self.var / "run"

    @property
    def log_dir(self) -> Path:
        return self.var / "log"

    def slots(self, tier: str) -> int:
        """Permits of a built-in tier over all replicas."""
        per_replica = {"fast": self.fast_slots, "deep": self.deep_slots}[tier]
        return per_replica * self.triton_replicas

    def environment(self) -> dict[str, str]:
        """TIDEGATE_* variables that rebuild exactly these settings in a child process."""
        out = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if value != spec.default or spec.name == "var":
                out[PREFIX + spec.name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
        return out


def _lives(text: str) -> dict[str, float]:
    """Raises: SettingsError."""
    found = {}
    for pair in filter(None, (each.strip() for each in text.split(","))):
        name, _, seconds = (part.strip() for part in pair.partition("="))
        try:
            found[name] = float(seconds)
        except ValueError:
            found[name] = 0.0
        if not name or not 1 <= found[name] <= 2_592_000:
            raise SettingsError(
                f"TIDEGATE_CACHE_TTL_COLLECTIONS: {pair[:80]!r} is no COLLECTION=SECONDS, 1 to 2592000."
            )
    return found


def _hosts(text: str, name: str) -> dict[str, str]:
    """`HOST,TIER=HOST` as host by tier, "" for the one without a tier. Raises: SettingsError."""
    found: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        tier, _, host = entry.rpartition("=")
        if not _HOST.fullmatch(host) or tier in found:
            raise SettingsError(f"{PREFIX}{name}: {entry!r} is not HOST or TIER=HOST, each tier once.")
        found[tier] = host
    if found and name == "TRITON_HOSTS" and "" not in found:
        raise SettingsError(f"{PREFIX}{name} names no HOST for retrieval.")
    return found


def _check(spec: Any, value: Any) -> None:
    name, meta = PREFIX + spec.name.upper(), spec.metadata
    shown = "***" if meta["secret"] else repr(str(value))
    if meta["choices"] and value not in meta["choices"]:
        raise SettingsError(f"{name}={shown} is not one of: {', '.join(meta['choices'])}.")
    if meta["minimum"] is not None and value < meta["minimum"]:
        raise SettingsError(f"{name}={shown} is below the minimum {meta['minimum']}.")
    if meta["maximum"] is not None and value > meta["maximum"]:
        raise SettingsError(f"{name}={shown} is above the maximum {meta['maximum']}.")


def _check_vector_store(value: str) -> None:
    """Raises: SettingsError. The URI may hold no secret: it is shown by `doctor` and in logs."""
    kind, _, uri = value.partition(":")
    if value == "faiss" or (kind == "milvus" and uri.endswith(".db") and "://" not in uri):
        return
    name = PREFIX + "VECTOR_STORE"
    if kind != "milvus":
        raise SettingsError(f"{name}={value!r} is not `faiss` or `milvus:URI`.")
    try:
        parts = urlsplit(uri)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_url = False
    if not is_url:
        raise SettingsError(f"{name}: what follows `milvus:` is not a URL such as http://127.0.0.1:19530.")
    if parts.username or parts.password or parts.query:
        raise SettingsError(
            f"{name}: the URL may only name scheme, host, port and database; "
            f"credentials belong in {PREFIX}MILVUS_TOKEN."
        )


# Given as text because empty means "none"; children run in other folders, so they are made absolute.
_PATHS = ("redis_server", "envoy_bin", "triton_home", "checkpoint", "tiers_file", "convert_python")


def secret_files() -> list[str]:
    """Variables that name a file with a secret setting's value in it, as container platforms mount secrets."""
    return [f"{PREFIX}{spec.name.upper()}_FILE" for spec in fields(Settings) if spec.metadata["secret"]]


def _with_secret_files(environ: Mapping[str, str]) -> dict[str, str]:
    """Each file's text in the place of the variable that names it. Raises: SettingsError."""
    found = dict(environ)
    for variable in secret_files():
        path, name = found.pop(variable, ""), variable.removesuffix("_FILE")
        if not path:
            continue
        if name in found:
            raise SettingsError(f"{name} and {variable} are both set: keep one.")
        try:
            found[name] = Path(path).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            raise SettingsError(f"{variable}={path!r} cannot be read: {error}.") from None
    return found


def load_settings(environ: Mapping[str, str] | None = None, **explicit: Any) -> Settings:
    """Settings from the environment, explicit arguments winning (None = not given).

    Raises: SettingsError for unknown TIDEGATE_ names and bad values.
    """
    source = _with_secret_files(os.environ if environ is None else environ)
    known = {PREFIX + spec.name.upper(): spec for spec in fields(Settings)}
    unknown = sorted(name for name in source if name.startswith(PREFIX) and name not in known)
    if unknown:
        raise SettingsError(f"{unknown[0]} is not a setting; `tidegate settings` lists all of them.")
    values: dict[str, Any] = {}
    for name, spec in known.items():
        if name in source:
            try:
                values[spec.name] = _PARSERS[str(spec.type)](source[name])
            except ValueError as error:
                shown = "***" if spec.metadata["secret"] else repr(source[name])
                raise SettingsError(f"{name}={shown} is not a valid {spec.type}: {error}.") from None
    values.update({key: value for key, value in explicit.items() if value is not None})
    for name in _PATHS:
        if values.get(name):
            values[name] = str(_path(values[name]))
    if values.get("database_url"):
        values["database_url"] = _absolute_sqlite(values["database_url"])
    kind, _, uri = values.get("vector_store", "").partition(":")
    if kind == "milvus" and uri.endswith(".db") and "://" not in uri:
        values["vector_store"] = f"milvus:{_path(uri)}"
    values["var"] = Path(values.get("var", Path("var"))).expanduser().absolute()
    return Settings(**values)
