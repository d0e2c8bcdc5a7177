"""Secrets of one instance, made at the first start: var/secrets/{redis,supervisor,dev-key,alerts-key}.

Readable by us alone.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway.settings import Settings

DEV_KEY = "dev-key"
ALERTS_KEY = "alerts-key"  # of an admin; Alertmanager's, where TIDEGATE_WATCH starts one


def secret(settings: Settings, name: str) -> str:
    """The secret of that name, made when it is missing. Two processes may race: both get the same one."""
    path = settings.var / "secrets" / name
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        value = f"tg-{secrets.token_urlsafe(32)}" if name in {DEV_KEY, ALERTS_KEY} else secrets.token_hex(24)
        draft = path.with_name(f".{name}.{os.getpid()}")
        write_private(draft, value + "\n")
        try:
            os.link(draft, path)  # fails when another was first
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text("ascii").strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only we can read, from its first byte on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
