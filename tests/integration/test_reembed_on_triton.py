"""A corpus changes while it is searched, on each database: real Triton, real models, no search without its passage."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import pytest

from gateway.ingest.reembed import Reembedder
from gateway.retrieval.triton_models import TritonEmbedder, TritonRetriever
from gateway.settings import Settings, load_settings
from gateway.storage import catalog
from gateway.storage import corpus as corpus_rows
from gateway.storage.database import Database
from gateway.storage.ids import new_id
from gateway.triton import TritonClient
from gateway.types import DEFAULT_EMBEDDER, Passage, Scope
from tests.fakes import corpus
from tests.fakes.encoders import DIM, write_encoder
from tests.fakes.triton_process import MODELS, TritonProcess, free_port, running_triton

WORDS = """
anvil badger cedar dulcimer ember falcon ginger harbour ivory juniper kettle lantern meadow nectar orchid pepper quarry
raven saddle thistle umbrella velvet walnut yarrow almond basket candle dragon engine feather garnet hammer island
jasmine kitchen ladder marble needle oyster pillow quiver ribbon spindle turtle urchin violin willow zephyr amber bridge
copper drummer elbow forest glacier hollow insect jungle knight lemon mirror nutmeg onion parrot
""".split()  # noqa: SIM905 - one a line would fill a screen
FACTS = [
    f"{WORDS[at].title()}, {WORDS[at + 1]} and {WORDS[at + 2]} are kept behind the {WORDS[at + 3]}. "
    for at in range(0, len(WORDS) - 3, 4)
]
QUESTION, ANSWER = "Behind what is the violin kept?", next(fact.strip() for fact in FACTS if "iolin" in fact)
SWITCH_S = 60.0


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def settings(
    request: pytest.FixtureRequest,
    triton_installed: None,
    models_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    url = request.getfixturevalue("postgres").new_database() if request.param == "postgresql" else ""
    folder = tmp_path_factory.mktemp("reembed")
    (folder / "var" / "models").mkdir(parents=True)
    for model in models_dir.iterdir():
        (folder / "var" / "models" / model.name).symlink_to(model)
    small = write_encoder(folder / "small")
    return load_settings(
        {}, var=folder / "var", port=free_port(), database_url=url, embedders=f"small={small}"
    )


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.sql_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture(scope="module")
def triton(
    settings: Settings, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonProcess]:
    names = ("embed", "search", "rerank", "retrieve")
    models = [MODELS / "retrieval" / name for name in names]
    with running_triton(tmp_path_factory.mktemp("triton"), models, settings) as process:
        yield process


async def _filled(client: TritonClient, database: Database, tenant_id: str, embedder: str) -> str:
    collection_id = corpus.new_collection(database, tenant_id)
    vectors = await TritonEmbedder(client).embed(FACTS, role="passage", timeout_s=60)
    await asyncio.to_thread(corpus.add_file, database, tenant_id, collection_id, FACTS, vectors)
    await _found(client, Scope(tenant_id=tenant_id), QUESTION, ANSWER)
    return collection_id


async def _found(client: TritonClient, scope: Scope, question: str, text: str) -> None:
    deadline = time.monotonic() + 10
    while not _holds(await _search(client, scope, question), text):
        assert time.monotonic() < deadline, "never searchable"
        await asyncio.sleep(0.02)


async def _search(client: TritonClient, scope: Scope, question: str = QUESTION) -> list[Passage]:
    return (await TritonRetriever(client).retrieve(question, scope, timeout_s=30)).passages


def _holds(passages: list[Passage], text: str) -> bool:
    return any(text in passage.text for passage in passages)  # neighbours come as one passage


def _row(database: Database, tenant_id: str, collection_id: str) -> catalog.CollectionRow:
    with database.read() as conn:
        row = catalog.get_collection(conn, tenant_id, collection_id)
    assert row is not None
    return row


async def _changed(
    client: TritonClient, database: Database, settings: Settings, tenant_id: str, collection_id: str, to: str
) -> list[list[Passage]]:
    """Change the embedder; what searches by one retriever found from before the start until after the switch."""
    retriever, scope = TritonRetriever(client), Scope(tenant_id=tenant_id, collections=[collection_id])
    stop, seen = asyncio.Event(), []
    worker = asyncio.create_task(Reembedder(database, TritonEmbedder(client), settings).run(stop))

    async def search_once() -> None:
        seen.append((await retriever.retrieve(QUESTION, scope, timeout_s=30)).passages)

    await search_once()
    with database.write() as conn:
        catalog.start_reembedding(conn, tenant_id, collection_id, to)
    deadline = time.monotonic() + SWITCH_S
    while _row(database, tenant_id, collection_id).embedder != to:
        assert time.monotonic() < deadline
        await search_once()
    after = time.monotonic() + 1.0  # the index follows in a tenth of that
    while time.monotonic() < after:
        await search_once()
    stop.set()
    await worker
    return seen


@pytest.mark.timeout(240)
async def test_no_search_misses_its_passage_while_the_embedder_changes_and_changes_back(
    client: TritonClient, database: Database, settings: Settings
) -> None:
    collection_id = await _filled(client, database, "moving", DEFAULT_EMBEDDER)
    for to in ("small", DEFAULT_EMBEDDER):
        seen = await _changed(client, database, settings, "moving", collection_id, to)
        assert len(seen) > 5
        assert [_holds(passages, ANSWER) for passages in seen] == [True] * len(seen)
        assert _row(database, "moving", collection_id).next_embedder is None


@pytest.mark.timeout(240)
async def test_collections_of_two_embedders_are_searched_together(
    client: TritonClient, database: Database
) -> None:
    first = await _filled(client, database, "mixed", DEFAULT_EMBEDDER)
    texts = ["The cellar of the tower holds old wine."]
    vectors = await TritonEmbedder(client).embed(texts, role="passage", timeout_s=30, embedder="small")
    assert vectors.shape == (1, DIM)
    with database.write() as conn:
        second = catalog.create_collection(conn, "mixed", "cellar", {}, "small").id
    await asyncio.to_thread(corpus.add_file, database, "mixed", second, texts, vectors)
    scope = Scope(tenant_id="mixed", collections=[first, second])
    await _found(client, scope, "Where is the old wine of the tower?", texts[0])
    only = Scope(tenant_id="mixed", collections=[second])
    assert [each.text for each in await _search(client, only, "old wine")] == texts
    assert _holds((await _search(client, scope))[:1], ANSWER)


@pytest.mark.parametrize("how", ["detach_file", "delete_file", "delete_collection"])
async def test_what_leaves_is_soon_not_found(client: TritonClient, database: Database, how: str) -> None:
    scope, retriever = Scope(tenant_id=how), TritonRetriever(client)
    collection_id = corpus.new_collection(database, how)
    texts = ["The old tide table."]
    vectors = await TritonEmbedder(client).embed(texts, role="passage", timeout_s=30)
    file_id = await asyncio.to_thread(corpus.add_file, database, how, collection_id, texts, vectors)
    await _found(client, scope, "tide table", texts[0])
    calls = {
        "detach_file": lambda conn: catalog.detach_file(conn, how, collection_id, file_id),
        "delete_file": lambda conn: catalog.delete_file(conn, how, file_id),
        "delete_collection": lambda conn: catalog.delete_collection(conn, how, collection_id),
    }
    with database.write() as conn:
        assert calls[how](conn)
    began = time.monotonic()
    while (found := await _texts(retriever, scope)) != []:
        assert found == texts
        assert time.monotonic() - began < 5.0, "still found"
        await asyncio.sleep(0.01)
    assert time.monotonic() - began < 2.0  # most often a tenth


async def _texts(retriever: TritonRetriever, scope: Scope) -> list[str]:
    found = await retriever.retrieve("tide table", scope, timeout_s=5)
    return [passage.text for passage in found.passages]


NUM_VERSIONS = 25


async def test_a_file_replaced_again_and_again_is_always_found_in_exactly_one_version(
    client: TritonClient, database: Database
) -> None:
    scope, retriever = Scope(tenant_id="replace"), TritonRetriever(client)
    collection_id = corpus.new_collection(database, "replace")
    vectors = await TritonEmbedder(client).embed(["The tide table."], role="passage", timeout_s=30)
    texts = [f"The tide table, version {number}." for number in range(NUM_VERSIONS)]
    file_id = await asyncio.to_thread(corpus.add_file, database, "replace", collection_id, texts[:1], vectors)
    await _found(client, scope, "tide table", texts[0])
    took_s = []
    for before, after in pairwise(texts):
        file_id = await asyncio.to_thread(_replace, database, collection_id, file_id, after, vectors)
        began = time.monotonic()
        while (found := await _texts(retriever, scope)) != [after]:
            assert found == [before], "neither the old nor the new, or both"
            assert time.monotonic() - began < 5.0, "still the old one"
        took_s.append(time.monotonic() - began)
    print(f"seconds until the new version: median {median(took_s):.2f}, longest {max(took_s):.2f}")
    assert median(took_s) < 1.0


def _replace(
    database: Database, collection_id: str, file_id: str, text: str, vectors: npt.NDArray[np.float32]
) -> str:
    """The id of the new file."""
    made = new_id("file-")
    with database.write() as conn:
        catalog.create_file(
            conn, tenant_id="replace", file_id=made, filename="table.md", purpose="assistants",
            num_bytes=len(text), sha256=hashlib.sha256(text.encode()).hexdigest(),
        )  # fmt: skip
        catalog.attach_file(conn, "replace", collection_id, made, {}, replaces=file_id)
        item = corpus_rows.claim(conn, lease_s=60, now=0.5)
        assert item is not None
        assert item.file_id == made
        corpus_rows.publish(conn, item, [corpus_rows.NewChunk(0, len(text), text)], vectors)
    return made
