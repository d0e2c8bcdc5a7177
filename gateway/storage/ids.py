"""New ids, e.g. `vs_018f3c…`: sorted by id they are sorted by the microsecond they were made in."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    return f"{prefix}{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"
