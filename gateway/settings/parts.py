"""The processes and stores that the service is made of: how many, which, and where they are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    gateway_workers: int = setting(
        0, "Gateway processes; 0 = half of the cores, at least 1.", minimum=0, maximum=256
    )
    triton_replicas: int = setting(1, "Triton processes behind the balancer.", minimum=1, maximum=64)
    database_url: str = setting("", "SQLAlchemy URL; empty = SQLite in the var folder.", secret=True)
    vector_store: str = setting(
        "faiss",
        "Where vectors are searched: `faiss`, in the model `search` itself; or `milvus:URI`, with the URI "
        "http://host:19530 or http://host:19530/database.",
    )
    milvus_token: str = setting("", "Milvus token (`user:password` or an API key).", secret=True)
    milvus_timeout_s: float = setting(
        3.0, "Longest wait for one call of Milvus while searching (seconds).", minimum=0.1, maximum=8
    )
    snapshot_chunks: int = setting(
        10_000,
        "Changed chunks after which `search` saves its FAISS index for the next start; of a large corpus a tenth. "
        "0 = never.",
        minimum=0,
    )
    search_device: str = setting(
        "cpu",
        "Where FAISS searches large collections: `gpu` needs a FAISS that was built for GPUs; see docs/gpu.md.",
        choices=("cpu", "gpu"),
    )
    index_threads: int = setting(
        0,
        "Threads that build a graph over a large collection; 0 = half of the cores.",
        minimum=0,
        maximum=1024,
    )
    redis_url: str = setting("", "Redis URL; empty = our own redis-server in the var folder.", secret=True)
    redis_server: str = setting(
        "", "Path of redis-server; empty = the one on PATH if it is >= 7, else the bundled one."
    )
    envoy_bin: str = setting("", "Path of envoy; empty = the bundled one, else the one on PATH.")
    triton_home: str = setting("", "Folder that holds Triton's bin/ and backends/; empty = the bundled one.")

    @property
    def num_workers(self) -> int:
        return self.gateway_workers or max(1, (os.cpu_count() or 2) // 2)

    @property
    def milvus_uri(self) -> str:
        """Empty when FAISS is the vector store."""
        kind, _, uri = self.vector_store.partition(":")
        return uri if kind == "milvus" else ""
