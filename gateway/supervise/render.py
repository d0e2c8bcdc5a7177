"""Configuration files of the processes that we run, made from Settings: Envoy, Redis, supervisord."""

from __future__ import annotations

import base64
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from gateway import errors
from gateway.api.grpc_errors import to_status, too_large
from gateway.settings import Settings
from gateway.supervise import watching
from gateway.supervise.assets import Assets, package_parent
from gateway.supervise.binaries import find_envoy
from gateway.supervise.envoy_tracing import BALANCER, EDGE, envoy_tracing
from gateway.supervise.triton_server import OF_ENGINES, leash
from gateway.tier_config import generate_tiers, upstream_tiers
from gateway.triton import MODEL_HEADER, PIN_HEADER

MIB = 2**20
# Where a collector asks for a key, it stands in these.
COLLECTOR_HEADERS = ("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS")
FILLS_PER_S = 10  # of the token bucket at the edge
OWN_FILES = 512  # of an Envoy, at least: listeners, logs, health and its checks, HTTP/2 to workers and Triton
BURST_S = 2  # as much of the edge's rate may come at once


@dataclass(frozen=True)
class LocalReply:
    """How Envoy words an error of its own."""

    op: str
    status: int
    error: type[errors.TidegateError]
    message: str
    retry_after_s: int = 0
    flags: tuple[str, ...] = ()  # Envoy's reasons for it; empty = any
    told_as: int = 0  # the status that the client gets; 0 = Envoy's own

    @property
    def grpc_code(self) -> int:
        return int(self._status.code)

    @property
    def grpc_details(self) -> str:
        """The google.rpc.Status of our own gRPC errors, as the header `grpc-status-details-bin` holds it."""
        return base64.b64encode(self._status.SerializeToString()).decode().rstrip("=")

    @property
    def _status(self) -> Any:
        return to_status(self.error(self.message, retry_after_s=self.retry_after_s or None))

    @property
    def code(self) -> str:
        return self.error.code

    @property
    def type(self) -> str:
        return self.error.type


LOCAL_REPLIES = (
    LocalReply("EQ", 403, errors.Forbidden, "This path is not open to callers."),
    LocalReply("EQ", 408, errors.DeadlineExceeded, "The request took too long to arrive."),
    LocalReply("EQ", 413, errors.PayloadTooLarge, "The request body is larger than this service accepts."),
    LocalReply("EQ", 415, errors.UnsupportedMediaType, "This path speaks gRPC over HTTP/2 and nothing else."),
    LocalReply("EQ", 429, errors.RateLimited, "Too many requests; try again shortly.", 1),
    LocalReply("EQ", 431, errors.InvalidRequest, "The request headers are too many or too large."),
    LocalReply("EQ", 502, errors.UpstreamProtocolError, "The service gave an invalid answer."),
    LocalReply(
        "EQ",
        503,
        errors.UpstreamUnavailable,
        "The service is not ready for this request; try again.",
        1,
        ("UH", "UF", "UC", "UR", "LR", "UT", "URX", "NC"),  # no worker, or one that broke off
    ),
    # Every other one is Envoy's own refusal: the rate limit, its memory, a circuit breaker. Their flags are set too
    # late to be asked for here.
    LocalReply(
        "EQ",
        503,
        errors.AdmissionError,
        "The service takes no more requests at this moment; try again shortly.",
        1,
    ),
    LocalReply("EQ", 504, errors.UpstreamTimeout, "The service did not answer in time."),
    # A worker broke off, and more of the body has come than is kept to send it to another one.
    LocalReply(
        "EQ",
        507,
        errors.UpstreamUnavailable,
        "The service is not ready for this request; try again.",
        1,
        told_as=503,
    ),
    LocalReply("GE", 500, errors.InternalError, "Something went wrong inside the service."),
    LocalReply("GE", 400, errors.InvalidRequest, "The request is not valid HTTP for this service."),
)


def max_open_files() -> int:
    """Files that a child of ours may have open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if hard == resource.RLIM_INFINITY else hard


@dataclass(frozen=True)
class FileShares:
    """How one Envoy process divides its open files. Without one for a connection to a worker it would crash."""

    connections: int  # of clients
    streams: int  # that workers have over HTTP/1.1 at once, each on a connection of its own
    idle: int  # connections to workers beyond those

    @classmethod
    def of(cls, open_files: int, connections: int = 0) -> FileShares:
        """connections: as many as are wanted, 0 = half of what there is. What clients do not get, streams do.

        An HTTP/1.1 client has one stream, so there are never fewer streams than connections; of HTTP/2 any number of
        streams may come on one.
        """
        own, idle = max(OWN_FILES, open_files // 64), max(64, open_files // 64)
        room = max(128, open_files - own - idle)
        connections = min(connections or room, room // 2)
        return cls(connections, room - connections, idle)


def edge_rate(settings: Settings) -> dict[str, float] | None:
    """The token bucket of one Envoy process; None = no limit."""
    rate = settings.edge_requests_per_s / settings.edge_processes
    if rate == 0:
        return None
    fills_per_s = FILLS_PER_S if rate >= FILLS_PER_S else 1
    per_fill = max(1, round(rate / fills_per_s))
    return {
        "per_fill": per_fill,
        "interval_s": 1 / fills_per_s,
        "burst": max(per_fill, round(rate * BURST_S)),
    }


def max_calls(settings: Settings) -> int:
    """Calls that Envoy lets onto Triton at once: far more than the gateway ever has, far less than would bury it."""
    tiers = settings.slots("fast") + settings.slots("deep")
    tiers += sum(tier.slots for tier in generate_tiers(settings)) * settings.triton_replicas
    return max(1024, 2 * (tiers + settings.retrieval_slots * settings.num_workers))


Role = Literal["both", "edge", "balancer"]
STDOUT = "/dev/stdout"  # of an Envoy that runs in a container: whoever runs it keeps its log


def triton_groups(settings: Settings) -> list[dict[str, object]]:
    """The clusters of Triton replicas. model: whose calls go there, "" = everybody else's. host: "" = this machine."""
    hosts = settings.hosts_of_triton
    if not hosts:
        ports = [settings.triton_ports(index) for index in range(settings.triton_replicas)]
        here = [{"host": "127.0.0.1", "grpc_port": each[0], "guard_port": each[3]} for each in ports]
        return [{"name": "triton", "model": "", "host": "", "canary_host": "", "replicas": here}]
    groups: list[dict[str, object]] = []
    grpc_port, _, _, guard_port = settings.triton_ports(0)
    for tier, host in hosts.items():
        name, canary = f"triton_{tier}" if tier else "triton", settings.hosts_of_canaries.get(tier, "")
        sides = [(name, tier, host, canary)]
        if canary:  # no route of its own: it is reached through its share
            sides.append((f"{name}_canary", "", canary, ""))
        for cluster, model, address, canary_host in sides:
            replica = {"host": address, "grpc_port": grpc_port, "guard_port": guard_port}
            groups.append(
                {
                    "name": cluster,
                    "model": model,
                    "host": address,
                    "canary_host": canary_host,
                    "replicas": [replica],
                }
            )
    return groups


def render_envoy(
    settings: Settings, assets: Assets, index: int = 0, role: Role = "both", open_files: int = 0
) -> str:
    """Envoy's bootstrap as YAML. index: which of the processes; the first one has the balancer over Triton too.

    role: what one in a container of its own does; it logs to standard output and tells its metrics.
    open_files: how many it may have; 0 = as many as we.
    """
    environment = jinja2.Environment(  # noqa: S701 - this is YAML, and every text goes through tojson
        undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(assets.envoy_template.read_text())
    workers = range(1 if settings.gateway_host else settings.num_workers)
    return template.render(
        public_host="127.0.0.1" if settings.host == "localhost" else settings.host,
        public_port=settings.port,
        inner_port=int(settings.triton_target.rpartition(":")[2]),
        admin_port=settings.edge_admin_port(index),
        shares_port=settings.edge_processes > 1,
        has_edge=role != "balancer",
        has_balancer=index == 0 and role != "edge",
        stats_port=0 if role == "both" else settings.envoy_stats_port,
        gateway_host=settings.gateway_host,
        workers=[
            {
                "host": settings.gateway_host or "127.0.0.1",
                "port": settings.worker_port(index),
                "grpc_port": settings.worker_grpc_port(index),
            }
            for index in workers
        ],
        tritons=triton_groups(settings),
        tracing=envoy_tracing(settings),
        span_names={"edge": EDGE, "inner": BALANCER},
        model_header=MODEL_HEADER,
        pin_header=PIN_HEADER,
        canary_percent=settings.canary_percent,
        access_log=STDOUT if role != "both" else str(settings.edge_access_log(index)),
        keepalive_s=f"{settings.keepalive_s:g}",
        chat_idle_s=int(settings.request_timeout_s) + 60,
        slow_reader_s=f"{settings.slow_reader_s:g}",
        edge_rate=edge_rate(settings),
        max_calls=max_calls(settings),
        files=FileShares.of(open_files or max_open_files(), settings.edge_connections),
        max_heap_bytes=settings.edge_heap_mb * MIB,
        max_upload_bytes=settings.max_file_bytes + MIB,
        local_replies=LOCAL_REPLIES,
        too_large=LocalReply("EQ", 413, errors.PayloadTooLarge, too_large(settings.max_body_bytes).message),
    )


def envoy_names(settings: Settings) -> list[str]:
    """The Envoy processes by name; the file `<name>.yaml` configures each."""
    return [f"envoy-{index}" if index else "envoy" for index in range(settings.edge_processes)]


def envoy_command(settings: Settings, config: Path, role: Role = "both") -> list[str]:
    threads = max(1, (os.cpu_count() or 2) // 2 // settings.edge_processes)
    return [
        str(find_envoy(settings)),
        "--config-path",
        str(config),
        # Alone in a container it may use all that the container has, which Envoy finds out by itself.
        *(["--concurrency", str(threads)] if role == "both" else []),
        "--disable-hot-restart",
        "--log-level",
        "debug" if settings.log_level == "debug" else "warning",
        "--file-flush-interval-msec",
        "1000",
        "--drain-time-s",
        str(max(1, int(settings.drain_s))),
    ]


@dataclass(frozen=True)
class Program:
    """One entry of supervisord. priority: started in rising, stopped in falling order."""

    name: str
    argv: list[str]
    priority: int
    stop_wait_s: float
    group: str = ""


def programs(settings: Settings) -> list[Program]:
    """Everything the service consists of on one machine."""
    python = [sys.executable, "-m"]
    run, grace_s = settings.run_dir, settings.drain_s + 5
    out = []
    if not settings.redis_url:
        out.append(Program("redis", [*python, "gateway.supervise.redis_keeper"], 10, 10))
    for index in range(settings.triton_replicas):
        argv = [*python, "gateway.supervise.guard", str(index)]
        out.append(Program(f"triton-{index}", argv, 20, grace_s, "triton"))
    for name in envoy_names(settings):
        out.append(Program(name, envoy_command(settings, run / f"{name}.yaml"), 30, 5))
    for index in range(settings.num_workers):
        out.append(Program(f"gateway-{index}", [*python, "gateway.app", str(index)], 40, grace_s, "gateway"))
    out.append(Program("ingest", [*python, "gateway.ingest_app"], 50, grace_s))
    out += [Program(name, argv, 60, 10) for name, argv in watching.commands(settings).items()]
    return out


def upstream_keys(settings: Settings) -> list[str]:
    """Variables that hold the keys of tiers on other servers."""
    return sorted({tier.api_key_env for tier in upstream_tiers(settings)} - {""})


def child_environment(settings: Settings) -> dict[str, str]:
    """All that a child gets: our settings, and the few variables that programs need to work at all."""
    env = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "/usr/bin:/bin")]),
        "PYTHONPATH": str(package_parent()),
        "PYTHONSAFEPATH": "1",  # nothing is imported from a working directory
        "PYTHONUNBUFFERED": "1",
        "HOME": os.environ.get("HOME", "/"),
    }
    kept = ("CUDA_", "NVIDIA_", "OMP_", "OTEL_", "LC_", "LANG", "TZ", "SSL_CERT_", *OF_ENGINES)
    keys = upstream_keys(settings)
    env |= {key: value for key, value in os.environ.items() if key.startswith(kept) or key in keys}
    return env | settings.environment()


def render_supervisor(settings: Settings, password: str) -> str:
    """supervisord's configuration. Holds a password: the file must be readable by us alone.

    Children inherit supervisord's environment (child_environment), so no value needs quoting here.
    """
    parts = [
        _section(
            "supervisord",
            {
                "nodaemon": "true",
                "silent": "true",
                "logfile": settings.log_dir / "supervisord.log",
                "logfile_maxbytes": "10MB",
                "logfile_backups": 2,
                "pidfile": settings.run_dir / "supervisord.pid",
                "childlogdir": settings.log_dir,
                "directory": settings.var,
                "minfds": 1024,
                "minprocs": 64,
            },
        ),
        _section(
            "inet_http_server",
            {"port": f"127.0.0.1:{settings.supervisor_port}", "username": "tidegate", "password": password},
        ),
        _section(
            "rpcinterface:supervisor",
            {"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
    ]
    everything = programs(settings)
    for group in sorted({program.group for program in everything if program.group}):
        members = [program for program in everything if program.group == group]
        names = ",".join(program.name for program in members)
        parts.append(_section(f"group:{group}", {"programs": names, "priority": members[0].priority}))
    parts += [_program_section(program, settings) for program in everything]
    return "\n".join(parts)


def _program_section(program: Program, settings: Settings) -> str:
    keys = [] if program.group == "gateway" else upstream_keys(settings)  # nobody else has a use for them
    if program.group not in {"gateway", "triton"}:
        keys += [name for name in COLLECTOR_HEADERS if name in os.environ]
    blanks = {"environment": ",".join(f'{key}=""' for key in keys)} if keys else {}
    return _section(
        f"program:{program.name}",
        {
            **blanks,
            "command": " ".join(_quote(word) for word in leash("TERM", program.argv)),
            "priority": program.priority,
            "autorestart": "true",
            "startsecs": 2,  # one that dies sooner is started again after 1 s, 2 s, 3 s, …
            "startretries": 1_000_000,
            "stopsignal": "TERM",
            "stopwaitsecs": max(1, int(program.stop_wait_s)),
            "killasgroup": "true",
            "redirect_stderr": "true",
            # This one is expanded twice (supervisor 4.3).
            "stdout_logfile": str(settings.log_dir / f"{program.name}.log").replace("%", "%%"),
            "stdout_logfile_maxbytes": "20MB",
            "stdout_logfile_backups": 2,
        },
    )


def _section(name: str, values: dict[str, object]) -> str:
    # supervisord expands %(x)s in values, so a literal percent sign is doubled.
    return f"[{name}]\n" + "".join(
        f"{key}={str(value).replace('%', '%%')}\n" for key, value in values.items()
    )


def _quote(word: str) -> str:
    """Quote one word for supervisord, which splits commands with shlex and starts a comment at ` ;`."""
    return "'" + word.replace("'", "'\"'\"'") + "'"
