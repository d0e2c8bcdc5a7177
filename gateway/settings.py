"""All settings, in one table: name, unit, default, help. Explicit argument > TIDEGATE_* environment > default.

An unknown TIDEGATE_ name or a bad value stops the start with one sentence that names it. Ports that are not set
follow TIDEGATE_PORT, so a second instance needs only another TIDEGATE_PORT and TIDEGATE_VAR.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PREFIX = "TIDEGATE_"


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
    auth: str = _setting(
        "development",
        "`development`: loopback callers without a key are the default tenant; `required`: every call needs a key.",
        choices=("development", "required"),
    )
    log_level: str = _setting(
        "info", "Log level of our own processes.", choices=("debug", "info", "warning", "error")
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
        "Embedding arithmetic: `auto` takes bf16 where the processor has it, else f32.",
        choices=("auto", "bf16", "f32"),
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
        512, "Requests that may wait for a slot in one gateway worker; more are refused with 503.", minimum=0
    )
    queue_ttl_s: float = _setting(
        30.0, "Longest wait for a slot (seconds) before the request is evicted.", minimum=0.01
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
        if self.auth == "development" and self.host not in {"127.0.0.1", "::1", "localhost"}:
            raise SettingsError(
                f"TIDEGATE_HOST={self.host} is not loopback: set TIDEGATE_AUTH=required as well."
            )
        _check_vector_store(self.vector_store)

    # Derived values. Ports: one block of 100 above the public port.

    @property
    def triton_target(self) -> str:
        return f"127.0.0.1:{self.inner_port or self.port + 1}"

    @property
    def envoy_admin_port(self) -> int:
        return self.port + 2

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


def load_settings(environ: Mapping[str, str] | None = None, **explicit: Any) -> Settings:
    """Settings from the environment, explicit arguments winning (None = not given).

    Raises: SettingsError for unknown TIDEGATE_ names and bad values.
    """
    source = os.environ if environ is None else environ
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
