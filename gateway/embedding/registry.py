"""Which embedders there are: the default one, and those of TIDEGATE_EMBEDDERS. Light: imports no runtime."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from gateway.embedding.export import EmbedderUnavailable, prepare_embedder, prepare_from_folder
from gateway.settings import Settings, SettingsError
from gateway.types import DEFAULT_EMBEDDER

SETTING = "TIDEGATE_EMBEDDERS"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def embedder_folders(settings: Settings) -> dict[str, Path]:
    """The operator's embedders: name -> folder. Raises: SettingsError naming what is wrong."""
    found: dict[str, Path] = {}
    for entry in filter(None, (part.strip() for part in settings.embedders.split(","))):
        name, separator, folder = (part.strip() for part in entry.partition("="))
        if not separator or not folder or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{SETTING}: {entry!r} is not NAME=FOLDER with a name of letters, digits, `.`, `_`, `-`."
            )
        if name == DEFAULT_EMBEDDER or name in found:
            raise SettingsError(f"{SETTING}: the name {name!r} is taken.")
        found[name] = Path(folder).expanduser().absolute()
    return found


def embedder_names(settings: Settings) -> list[str]:
    """Those that a collection may have, the default one first."""
    return [DEFAULT_EMBEDDER, *embedder_folders(settings)]


def prepare_embedders(settings: Settings, on_progress: Callable[[str], None]) -> dict[str, Path]:
    """Name -> model folder, built where it is not yet. Raises: EmbedderUnavailable, SettingsError."""
    built = {DEFAULT_EMBEDDER: prepare_embedder(settings.models_dir, on_progress)}
    for name, folder in embedder_folders(settings).items():
        try:
            built[name] = prepare_from_folder(name, folder, settings.models_dir, on_progress)
        except EmbedderUnavailable as error:
            raise EmbedderUnavailable(f"{SETTING}: {name}: {error}") from error
    return built
