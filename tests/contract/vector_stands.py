"""The fixture `stand`: every vector store over an empty database. Import it to use it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.storage.database import Database
from tests.fakes.vector_stores import FaissStand, MilvusLite, MilvusStand, Stand


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusLite]:
    server = MilvusLite(tmp_path_factory.mktemp("milvus") / "data")
    yield server
    server.stop()


@pytest.fixture(params=["faiss", "milvus"])
def stand(request: pytest.FixtureRequest, tmp_path: Path, migrated_sqlite: Path) -> Iterator[Stand]:
    database = Database(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path / 'test.db')}")
    made: Stand
    if request.param == "faiss":
        made = FaissStand(database)
    else:
        made = milvus = MilvusStand(database, request.getfixturevalue("milvus_lite").uri)
        milvus.empty()
    yield made
    made.close()
