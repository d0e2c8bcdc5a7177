"""Measurements of several parts, none of which takes the others' figures with it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def measure_parts(parts: Mapping[str, Callable[[], Any]], out: Path, **facts: Any) -> None:
    """Each part's figures, or why there are none, and how long it took (s): in `out` after every part, then printed.

    facts: told before them.
    """
    found: dict[str, Any] = dict(facts)
    for name, part in parts.items():
        started = time.perf_counter()
        try:
            found[name] = part()
        except Exception as error:  # noqa: BLE001 - the other parts' figures still stand
            found[name] = {"error": f"{type(error).__name__}: {error}"[:2000]}
        found[f"{name}_took_s"] = time.perf_counter() - started
        out.write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))
