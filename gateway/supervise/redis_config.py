"""Our own Redis: its configuration, and where it leaves the remembered answers from an end to the next start."""

from __future__ import annotations

import json
from pathlib import Path

from gateway.settings import Settings

MEMORY_MB = 256
SNAPSHOT = "answers.rdb"


def redis_folder(settings: Settings) -> Path:
    return settings.var / "redis"


def snapshot_path(settings: Settings) -> Path:
    return redis_folder(settings) / SNAPSHOT


def keeps_answers(settings: Settings) -> bool:
    """Whether remembered answers outlive an orderly end."""
    return not settings.redis_url and settings.cache and settings.cache_shared_answers > 0


def redis_memory(size_mb: int) -> dict[str, str]:
    """What Redis may hold, and that old keys give way to new ones."""
    return {"maxmemory": f"{size_mb}mb", "maxmemory-policy": "allkeys-lru"}


def render_redis(settings: Settings, password: str) -> str:
    """Redis holds only what may be lost: nothing is written to disk while it runs. Answers are compressed already."""
    lines = {
        "bind": "127.0.0.1",
        "port": settings.redis_port,
        "protected-mode": "yes",
        "requirepass": password,
        "dir": json.dumps(str(redis_folder(settings)), ensure_ascii=False),
        "dbfilename": SNAPSHOT,
        "rdbcompression": "no",
        "save": '""',
        "appendonly": "no",
        **redis_memory(MEMORY_MB),
        "maxclients": 4096,
        "tcp-backlog": 511,
        "daemonize": "no",
        "logfile": '""',
        "loglevel": "notice",
    }
    return "".join(f"{key} {value}\n" for key, value in lines.items())
