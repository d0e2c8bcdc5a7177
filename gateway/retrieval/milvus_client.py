"""Milvus as we use it: tables of chunks, the state of what was applied, and every error of pymilvus as one of ours.

Works on Milvus from 2.5 on and on milvus-lite. Calls are blocking and thread-safe; a lost connection is made again by
the next call. pymilvus is imported by the first call.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import grpc
import msgspec

from gateway.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.retrieval.milvus_schema import chunk_schema, library, state_schema

PREFIX = "tidegate_"
STATE_TABLE = PREFIX + "state"
LIVE, BUILDING = 1, 2  # rows of the state table
WRITE_TIMEOUT_S = 30.0
SLOW_TIMEOUT_S = 120.0  # for making and dropping tables

TABLE_NOT_FOUND = 100
TABLE_NOT_LOADED = 101
INVALID_PARAMETER = range(1100, 1200)
_AWAY_CODES = frozenset(
    {
        2,  # no connection
        8,  # rate limit
        9,  # writes denied: the quota is used up
    }
)
_AWAY_STATUSES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

log = logging.getLogger(__name__)


class TableMissing(UpstreamUnavailable):
    """No such table; it may be about to be made, or built again."""


class TableNotLoaded(UpstreamUnavailable):
    """Somebody released it, or the server was started again and does not load by itself (milvus-lite)."""


class RowsRefused(UpstreamError):
    """Something in the rows of a write is not as the table wants it; trying again does not help."""


class Table(msgspec.Struct, frozen=True):
    """A Milvus collection: all vectors of one embedder. is_lexical: it has BM25."""

    name: str
    dim: int
    is_lexical: bool


class State(msgspec.Struct, frozen=True):
    """What is in Milvus: all changes up to `epoch`, without the rows that were removed up to `purged`.

    generation: counts the times that everything was built anew. timestamp: Milvus' own clock after the last change
    that `epoch` or `purged` stands for; 0 = this server does not tell. tables: by embedder.
    """

    generation: int
    epoch: int = 0
    purged: int = 0
    timestamp: int = 0
    tables: dict[str, Table] = {}


class Milvus:
    """One server, or one database of it (the path of the URI)."""

    def __init__(self, uri: str, token: str, *, timeout_s: float) -> None:
        self._uri, self._database = _split(uri)
        self._token = token
        self._timeout_s = timeout_s
        self._client: Any = None
        self._has_clock = True
        self._is_lite: bool | None = None
        self._connecting = threading.Lock()

    def version(self) -> str:
        return str(self._call("get_server_version"))

    def states(self) -> dict[int, State]:
        """The rows LIVE and BUILDING, as far as they are there; waits until all earlier writes are in them."""
        try:
            rows = self._on_table(
                "query",
                STATE_TABLE,
                filter="id >= 0",
                output_fields=["id", "body"],
                consistency_level="Strong",
            )
        except TableMissing:
            return {}
        return {int(row["id"]): msgspec.json.decode(row["body"], type=State) for row in rows}

    def write_state(self, row: int, state: State) -> None:
        body = msgspec.json.encode(state).decode()
        self._write("upsert", STATE_TABLE, [{"id": row, "body": body, "vector": [1.0, 0.0]}])

    def delete_state(self, row: int) -> None:
        self._write("delete", STATE_TABLE, ids=[row])

    def create_state_table(self) -> None:
        """Does nothing when it is there."""
        if self._call("has_collection", STATE_TABLE):
            return
        self._create(STATE_TABLE, state_schema(), {"vector": "IP"})

    def create_table(self, name: str, dim: int) -> Table:
        """A table for chunks, with BM25 where the server has it. One of that name that is there is dropped."""
        self.drop_table(name)
        try:
            self._create(name, chunk_schema(dim, is_lexical=True), {"vector": "IP", "sparse": "BM25"})
        except UpstreamUnavailable:
            raise
        except UpstreamError as error:
            log.warning(
                "this Milvus has no full text search, words are compared among the nearest chunks only: %s",
                error.detail,
            )
            self.drop_table(name)
            self._create(name, chunk_schema(dim, is_lexical=False), {"vector": "IP"})
            return Table(name, dim, is_lexical=False)
        return Table(name, dim, is_lexical=True)

    def table_names(self) -> list[str]:
        """Of our tables of chunks."""
        names: list[str] = self._call("list_collections")
        return [name for name in names if name.startswith(PREFIX) and name != STATE_TABLE]

    def drop_table(self, name: str) -> None:
        if self._call("has_collection", name):
            self._call("drop_collection", name, timeout=SLOW_TIMEOUT_S)

    def count(self, name: str) -> int:
        """Rows, about: those that are replaced or to be deleted may be among them."""
        return int(self._on_table("get_collection_stats", name)["row_count"])

    def upsert(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        self._write("upsert", name, list(rows))

    def seal(self, name: str) -> None:
        """Make what was written and deleted last through any later flush of milvus-lite; Milvus needs no asking.

        While milvus-lite flushes, searches miss for a moment what is not on disk: rows vanish, deleted ones are back.
        """
        if self._is_milvus_lite():
            self._call("flush", name, timeout=SLOW_TIMEOUT_S)

    def delete(self, name: str, expression: str) -> None:
        self._write("delete", name, filter=expression)

    def search(
        self,
        name: str,
        query: Any,
        *,
        field: str,
        expression: str,
        limit: int,
        fields: Sequence[str],
        timestamp: int,
    ) -> list[dict[str, Any]]:
        """Hits of one query, best first: each has id, distance and the fields.

        timestamp: of a State; whatever was written up to then is seen.
        """
        found = self._on_table(
            "search",
            name,
            data=[query],
            anns_field=field,
            filter=expression,
            limit=limit,
            output_fields=list(fields),
            **_consistency(timestamp),
        )
        return [{"id": hit["id"], "distance": hit["distance"], **hit["entity"]} for hit in found[0]]

    def has_rows(self, name: str, expression: str, *, timestamp: int) -> bool:
        """timestamp: as for `search`."""
        rows = self._on_table(
            "query", name, filter=expression, output_fields=["id"], limit=1, **_consistency(timestamp)
        )
        return bool(rows)

    def timestamp(self) -> int:
        """Milvus' clock now; 0 = this server does not tell."""
        # MilvusClient has no method of its own for it. What asks for this moment, sees all that was written before.
        return int(
            self._guarded(lambda client: client._get_connection().alloc_timestamp(timeout=self._timeout_s))
        )

    def close(self) -> None:
        with self._connecting:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _is_milvus_lite(self) -> bool:
        if self._is_lite is None:
            self._is_lite = self.version().startswith("milvus_lite")
        return self._is_lite

    def _create(self, name: str, schema: Any, metrics: dict[str, str]) -> None:
        indexes = library().MilvusClient.prepare_index_params()
        # The graph that milvus-lite makes of AUTOINDEX gives only a few of the rows that a narrow filter leaves.
        dense = "FLAT" if self._is_milvus_lite() else "AUTOINDEX"
        for field, metric in metrics.items():
            kind = "SPARSE_INVERTED_INDEX" if metric == "BM25" else dense
            indexes.add_index(field, index_type=kind, metric_type=metric)
        self._call("create_collection", name, schema=schema, index_params=indexes, timeout=SLOW_TIMEOUT_S)

    def _write(self, method: str, table: str, *args: Any, **options: Any) -> Any:
        return self._on_table(method, table, *args, timeout=WRITE_TIMEOUT_S, **options)

    def _on_table(self, method: str, table: str, *args: Any, **options: Any) -> Any:
        try:
            return self._call(method, table, *args, **options)
        except TableNotLoaded:
            self._call("load_collection", table, timeout=SLOW_TIMEOUT_S)
            return self._call(method, table, *args, **options)

    def _call(self, method: str, *args: Any, **options: Any) -> Any:
        options.setdefault("timeout", self._timeout_s)
        return self._guarded(lambda client: getattr(client, method)(*args, **options))

    def _guarded(self, call: Callable[[Any], Any]) -> Any:
        try:
            return call(self._connected())
        except (library().MilvusException, grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise map_error(error) from error

    def _connected(self) -> Any:
        client = self._client
        if client is not None:
            return client
        with self._connecting:
            if self._client is None:
                # It logs each failed call with its stack, several times; whoever calls us says it once.
                logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
                self._client = library().MilvusClient(
                    uri=self._uri, token=self._token, db_name=self._database, timeout=self._timeout_s
                )
            return self._client


def map_error(error: Exception) -> UpstreamError:
    """Our error for one of pymilvus or gRPC. The server's own words go to `detail`."""
    detail = " ".join(str(error).split())
    if isinstance(error, library().MilvusException):
        code: Any = error.code
        detail = " ".join(str(error.message).split())
    else:
        code = error.code() if isinstance(error, grpc.RpcError) else grpc.StatusCode.DEADLINE_EXCEEDED
    if code is grpc.StatusCode.DEADLINE_EXCEEDED or "DEADLINE_EXCEEDED" in detail:
        return UpstreamTimeout(
            "The vector store did not answer in time.", code="vector_store_timeout", detail=detail
        )
    if code == TABLE_NOT_FOUND:
        return _away(TableMissing, detail)
    if code == TABLE_NOT_LOADED:
        return _away(TableNotLoaded, detail)
    if code in _AWAY_STATUSES or code in _AWAY_CODES or "closed channel" in detail:
        return away(detail)
    kind = RowsRefused if _is_about_input(error) else UpstreamError
    return kind("The vector store failed to process the request.", code="vector_store_error", detail=detail)


def _is_about_input(error: Exception) -> bool:
    pymilvus = library()
    if not isinstance(error, pymilvus.MilvusException):
        return False
    if isinstance(error, pymilvus.exceptions.ParamError | pymilvus.exceptions.DataNotMatchException):
        return True  # found by pymilvus itself
    is_parameter = isinstance(error.code, int) and error.code in INVALID_PARAMETER
    return bool(error.is_input_error) or is_parameter or str(error.message).startswith("Unexpected error")


def away(detail: str) -> UpstreamUnavailable:
    return _away(UpstreamUnavailable, detail)


def _away(kind: type[UpstreamUnavailable], detail: str) -> UpstreamUnavailable:
    return kind(
        "The vector store is not available right now; try again shortly.",
        code="vector_store_unavailable",
        retry_after_s=1.0,
        detail=detail,
    )


def _consistency(timestamp: int) -> dict[str, Any]:
    if not timestamp:
        return {"consistency_level": "Strong"}
    return {"consistency_level": "Customized", "guarantee_timestamp": timestamp}


def _split(uri: str) -> tuple[str, str]:
    """The URI without its path, and the path as the name of a database."""
    if "://" not in uri:
        return uri, ""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc, "", "", "")), parts.path.strip("/")
