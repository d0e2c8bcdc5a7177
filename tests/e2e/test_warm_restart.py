"""A restart stays warm: what was remembered is given by the next run of the service, while its evidence stands."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from gateway.storage.database import Database
from gateway.storage.epochs import next_epoch, remove_chunks
from tests.e2e.conftest import Launch, Service, wait_for
from tests.e2e.test_cache import all_ingested, ask, question_about, upload, verdict
from tests.e2e.test_supervision import lives

NUM_DOCUMENTS = 4
REMOVED = 2  # while the service is down
OTHER_WORDS = "Please tell me: how tall is the beacon of harbour Alba1?"


@pytest.fixture(scope="module")
def var(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("warm")


def beacons(client: httpx.Client) -> tuple[str, list[str]]:
    """A collection, and the ids of its files."""
    store = str(client.post("/v1/vector_stores", json={"name": "beacons"}).json()["id"])
    texts = [
        f"# Alba{n}\n\nThe beacon of harbour Alba{n} is {n + 20} metres tall.\n" for n in range(NUM_DOCUMENTS)
    ]
    files = [upload(client, store, f"b{n}.md", text) for n, text in enumerate(texts)]
    all_ingested(client, store)
    return store, files


def text_of(reply: dict[str, object]) -> str:
    return str(reply["choices"][0]["message"]["content"])  # type: ignore[index]


def held_by_the_worker(service: Service) -> int:
    metrics = httpx.get(f"http://127.0.0.1:{service.settings.worker_port(0)}/metrics").text
    (line,) = [each for each in metrics.splitlines() if each.startswith("tidegate_cache_entries ")]
    return int(float(line.split()[1]))


def remove_while_down(service: Service, store: str, file_id: str) -> None:
    """As ingest and the API do it, in SQL."""
    database = Database(service.settings.sql_url)
    with database.write() as conn:
        assert remove_chunks(conn, "default", store, file_id, next_epoch(conn))
    database.close()


def test_answers_outlive_the_service(launch: Launch, var: Path) -> None:
    first = launch(var)
    with first.client() as client:
        store, files = beacons(client)
        told = [verdict(ask(client, question_about(n), store)) for n in range(NUM_DOCUMENTS)]
        told += [verdict(ask(client, question_about(1), store)), verdict(ask(client, OTHER_WORDS, store))]
        before = [text_of(ask(client, question_about(n), store)) for n in range(NUM_DOCUMENTS)]
    assert told == ["miss"] * NUM_DOCUMENTS + ["exact", "semantic"]
    assert first.stop() == 0

    second = launch(var)
    wait_for(lambda: held_by_the_worker(second) >= NUM_DOCUMENTS, 10, "the worker has taken up its answers")
    with second.client() as client:
        in_other_words = ask(client, OTHER_WORDS, store)
        after = [ask(client, question_about(n), store) for n in range(NUM_DOCUMENTS)]
    assert verdict(in_other_words) == "semantic"
    assert text_of(in_other_words) == before[1]
    assert [verdict(each) for each in after] == ["exact"] * NUM_DOCUMENTS
    assert [text_of(each) for each in after] == before
    assert second.stop() == 0
    remove_while_down(second, store, files[REMOVED])

    third = launch(var)
    with third.client() as client:
        replies = [ask(client, question_about(n), store) for n in range(NUM_DOCUMENTS)]
    others = [n for n in range(NUM_DOCUMENTS) if n != REMOVED]
    assert verdict(replies[REMOVED]) == "miss"
    assert f"{REMOVED + 20} metres" not in text_of(replies[REMOVED])
    assert [verdict(replies[n]) for n in others] == ["exact"] * len(others)

    third.remember()
    third.process.kill()  # not an orderly end: cold, and right
    third.process.wait(10)
    wait_for(lambda: not any(map(lives, third.seen)), 40, "all parts have ended")
    fourth = launch(var)
    with fourth.client() as client:
        cold = ask(client, question_about(1), store)
    assert (verdict(cold), text_of(cold)) == ("miss", before[1])
    assert fourth.stop() == 0
    assert fourth.leftovers() == []
