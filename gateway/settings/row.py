"""One row of the settings' table: its default, what it may be, its help, and how text becomes its value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import Field, field
from pathlib import Path
from typing import Any

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


def absolute_path(text: str) -> Path:
    return Path(text).expanduser().absolute()


PARSERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _bool,
    "Path": absolute_path,
}


def setting(
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


def check(spec: Field[Any], value: Any) -> None:
    name, meta = PREFIX + spec.name.upper(), spec.metadata
    shown = "***" if meta["secret"] else repr(str(value))
    if meta["choices"] and value not in meta["choices"]:
        raise SettingsError(f"{name}={shown} is not one of: {', '.join(meta['choices'])}.")
    if meta["minimum"] is not None and value < meta["minimum"]:
        raise SettingsError(f"{name}={shown} is below the minimum {meta['minimum']}.")
    if meta["maximum"] is not None and value > meta["maximum"]:
        raise SettingsError(f"{name}={shown} is above the maximum {meta['maximum']}.")
