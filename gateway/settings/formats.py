"""Settings whose text has a form of its own: hosts by tier, lives by collection, the vector store."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from gateway.settings.row import PREFIX, SettingsError, absolute_path

_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[A-Za-z0-9._-]{0,63}")  # as values of Kubernetes' labels


def hosts(text: str, name: str) -> dict[str, str]:
    """`HOST,TIER=HOST` as host by tier, "" for the one without a tier. Raises: SettingsError."""
    found: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        tier, _, host = entry.rpartition("=")
        if not _HOST.fullmatch(host) or tier in found:
            raise SettingsError(f"{PREFIX}{name}: {entry!r} is not HOST or TIER=HOST, each tier once.")
        found[tier] = host
    if found and name == "TRITON_HOSTS" and "" not in found:
        raise SettingsError(f"{PREFIX}{name} names no HOST for retrieval.")
    return found


def lives(text: str) -> dict[str, float]:
    """Raises: SettingsError."""
    found = {}
    for pair in filter(None, (each.strip() for each in text.split(","))):
        name, _, seconds = (part.strip() for part in pair.partition("="))
        try:
            found[name] = float(seconds)
        except ValueError:
            found[name] = 0.0
        if not name or not 1 <= found[name] <= 2_592_000:
            raise SettingsError(
                f"TIDEGATE_CACHE_TTL_COLLECTIONS: {pair[:80]!r} is no COLLECTION=SECONDS, 1 to 2592000."
            )
    return found


def _is_milvus_file(value: str) -> bool:
    """Milvus Lite's: `milvus:PATH.db`."""
    kind, _, uri = value.partition(":")
    return kind == "milvus" and uri.endswith(".db") and "://" not in uri


def check_vector_store(value: str) -> None:
    """Raises: SettingsError. The URI may hold no secret: it is shown by `doctor` and in logs."""
    kind, _, uri = value.partition(":")
    if value == "faiss" or _is_milvus_file(value):
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


def absolute_sqlite(url: str) -> str:
    """A relative SQLite file counts from where the command was given, in every process."""
    scheme, separator, file = url.partition(":///")
    if not scheme.startswith("sqlite") or not separator or not file or file.startswith(("/", ":memory:")):
        return url
    return f"{scheme}:///{absolute_path(file)}"


def absolute_vector_store(value: str) -> str:
    """Milvus Lite's file counts from there too; any other store stays as it is written."""
    return f"milvus:{absolute_path(value.partition(':')[2])}" if _is_milvus_file(value) else value
