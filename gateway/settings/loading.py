"""Settings from the environment, from files that hold secrets, and from explicit arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gateway.settings.formats import absolute_sqlite, absolute_vector_store
from gateway.settings.row import PARSERS, PREFIX, SettingsError, absolute_path
from gateway.settings.table import Settings

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
                values[spec.name] = PARSERS[str(spec.type)](source[name])
            except ValueError as error:
                shown = "***" if spec.metadata["secret"] else repr(source[name])
                raise SettingsError(f"{name}={shown} is not a valid {spec.type}: {error}.") from None
    values.update({key: value for key, value in explicit.items() if value is not None})
    for name in _PATHS:
        if values.get(name):
            values[name] = str(absolute_path(values[name]))
    if values.get("database_url"):
        values["database_url"] = absolute_sqlite(values["database_url"])
    if values.get("vector_store"):
        values["vector_store"] = absolute_vector_store(values["vector_store"])
    values["var"] = Path(values.get("var", Path("var"))).expanduser().absolute()
    return Settings(**values)
