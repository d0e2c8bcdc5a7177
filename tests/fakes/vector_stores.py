"""Every vector store over a real database, in the form that the contract suite asks for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import grpc
import msgspec
import numpy as np
import numpy.typing as npt
from milvus_lite.adapter.grpc.servicer import MilvusServicer
from milvus_lite.db import MilvusLite as LiteData
from pymilvus.grpc_gen import milvus_pb2_grpc

from gateway.errors import InvalidRequest
from gateway.ports import SearchRequest, VectorStore
from gateway.retrieval.milvus_client import LIVE, Milvus, State
from gateway.retrieval.milvus_follower import MilvusFollower
from gateway.retrieval.milvus_store import MilvusStore
from gateway.storage.database import Database
from gateway.types import Passage, Scope

_decode = msgspec.json.Decoder(list[Passage]).decode


class Stand(Protocol):
    """settle: makes all that is committed searchable."""

    database: Database
    store: VectorStore

    def settle(self) -> None: ...

    def close(self) -> None: ...


class FaissStand:
    def __init__(self, database: Database) -> None:
        from gateway.retrieval.index import CorpusIndex
        from gateway.retrieval.tail import CorpusTail

        self.database = database
        self.store = CorpusIndex()
        self._tail = CorpusTail(database, self.store)

    def settle(self) -> None:
        self._tail.catch_up()

    def close(self) -> None:
        self.store.close()
        self.database.close()


class MilvusStand:
    """Follower and store with a connection each, as in two processes. Removed rows are deleted by `purge`."""

    def __init__(self, database: Database, uri: str) -> None:
        self.database = database
        self.uri = uri
        self.milvus = Milvus(uri, "", timeout_s=20)
        self.follower = MilvusFollower(database, self.milvus, grace_s=0)
        self.store = MilvusStore(database, Milvus(uri, "", timeout_s=20))

    def empty(self) -> None:
        """As if nothing had been written yet; making a table takes a second, so one that is there is kept."""
        state = self.milvus.states().get(LIVE, State(generation=1))
        for table in state.tables.values():
            self.milvus.delete(table.name, "id >= 0")
        self.milvus.create_state_table()
        self.milvus.write_state(LIVE, State(generation=1, tables=state.tables))

    def settle(self) -> None:
        self.follower.catch_up()
        self.store.refresh()

    def purge(self) -> None:
        self.follower.purge()
        self.store.refresh()

    def close(self) -> None:
        self.store.close()
        self.milvus.close()
        self.database.close()


class MilvusLite:
    """milvus-lite behind a port of this process; `stop` and `start` lose the connection but not the data.

    servicer: a class over milvus-lite's own, for servers that do something differently.
    """

    def __init__(self, folder: Path, port: int = 0, servicer: type[MilvusServicer] = MilvusServicer) -> None:
        logging.getLogger("milvus_lite").setLevel(logging.CRITICAL)
        self._folder = folder
        self._servicer = servicer
        self._server: Any = None
        self._data: Any = None
        self.port = port
        self.start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._data = LiteData(str(self._folder))
        self._server = grpc.server(ThreadPoolExecutor(10))
        milvus_pb2_grpc.add_MilvusServiceServicer_to_server(self._servicer(self._data), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(grace=None).wait()
        self._data.close()


def unit(*numbers: float, dim: int = 384) -> npt.NDArray[np.float32]:
    """A unit vector that begins with these numbers; shape [dim]."""
    vector = np.zeros(dim, np.float32)
    vector[: len(numbers)] = numbers
    return vector / np.float32(np.linalg.norm(vector))


def find(
    store: VectorStore,
    tenant_id: str,
    embedding: npt.NDArray[np.float32],
    text: str = "",
    **scope: Any,
) -> list[Passage]:
    """The passages of one search, as a caller decodes them."""
    (answer,) = store.search([SearchRequest(embedding, text, Scope(tenant_id=tenant_id, **scope))])
    if isinstance(answer, InvalidRequest):
        raise answer
    return _decode(answer)


def texts(passages: Sequence[Passage]) -> list[str]:
    return [passage.text for passage in passages]
