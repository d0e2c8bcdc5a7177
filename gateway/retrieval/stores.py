"""Which vector store the settings ask for."""

from __future__ import annotations

from typing import Protocol

from gateway.ports import VectorStore
from gateway.settings import Settings
from gateway.storage.database import Database


class Store(VectorStore, Protocol):
    """A store with its life. has_refused_snapshot: there was one to start from, and it was no good."""

    has_refused_snapshot: bool

    def start(self, wait_s: float) -> None:
        """Begin to follow SQL; returns once the corpus is searchable. Raises: an outage that lasts for wait_s."""
        ...

    def close(self) -> None: ...


class Feed(Protocol):
    """What carries SQL's changes to a store outside of the searching processes."""

    def start(self) -> None: ...

    def close(self) -> None: ...


def open_feed(settings: Settings, database: Database) -> Feed | None:
    """For the ingest process to run beside its worker. None: the store follows SQL by itself."""
    if settings.milvus_uri:
        from gateway.retrieval.milvus_feeding import open_milvus_feed

        return open_milvus_feed(settings, database)
    return None


def open_store(settings: Settings, database: Database) -> Store:
    # Imported late: each store brings libraries that the other has no use for.
    if settings.milvus_uri:
        from gateway.retrieval.milvus_store import open_milvus_store

        return open_milvus_store(settings, database)
    from gateway.retrieval.faiss_store import FaissStore

    return FaissStore(settings, database)
