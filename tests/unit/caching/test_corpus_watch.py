"""The watch hears of every kind of change that search follows, of its own places alone, and vouches for no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.caching.corpus_watch import CURRENT_S, CorpusWatch
from gateway.storage import attachments, collections
from gateway.storage.database import Database
from gateway.storage.epochs import current_epoch
from tests.fakes.corpus import add_file, new_collection
from tests.fakes.engines import vectors


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'tidegate.db'}")
    made.migrate()
    yield made
    made.close()


def epoch_of(database: Database) -> int:
    with database.read() as conn:
        return current_epoch(conn)


def publish(database: Database, store: str, text: str = "The tide.") -> str:
    return add_file(database, "acme", store, [text], vectors([text]))


async def test_an_answer_is_current_until_something_changes_in_its_collections(database: Database) -> None:
    one, other = new_collection(database, "acme"), new_collection(database, "acme", "others")
    publish(database, one)
    watch = CorpusWatch(database, Clock())
    assert not watch.is_current("acme", [one], epoch_of(database))  # it has not looked yet
    await watch.look()
    epoch = epoch_of(database)
    assert watch.is_current("acme", [one], epoch)
    assert not watch.is_current(
        "acme", [one], epoch - 1
    )  # of the time before the first look nothing is known
    publish(database, other)
    await watch.look()
    assert watch.is_current("acme", [one], epoch)
    assert not watch.is_current("acme", [one, other], epoch)
    assert not watch.is_current("acme", [], epoch)  # all collections
    assert watch.is_current("rival", [], epoch)


@pytest.mark.parametrize("change", ["new", "detached", "attributes", "collection"])
async def test_every_kind_of_change_is_heard_of(database: Database, change: str) -> None:
    store = new_collection(database, "acme")
    file_id = publish(database, store)
    watch = CorpusWatch(database, Clock())
    await watch.look()
    epoch = epoch_of(database)
    assert watch.is_current("acme", [store], epoch)
    if change == "new":
        publish(database, store, "Another text.")
    with database.write() as conn:
        if change == "detached":
            attachments.detach_file(conn, "acme", store, file_id)
        elif change == "attributes":
            attachments.update_attributes(conn, "acme", store, file_id, {"lang": "en"})
        elif change == "collection":
            collections.delete_collection(conn, "acme", store)
    assert epoch_of(database) > epoch
    await watch.look()
    assert not watch.is_current("acme", [store], epoch)


async def test_a_look_of_long_ago_and_an_epoch_from_elsewhere_say_nothing(database: Database) -> None:
    clock = Clock()
    watch = CorpusWatch(database, clock)
    await watch.look()
    epoch = epoch_of(database)
    assert watch.is_current("acme", [], epoch)
    assert not watch.is_current("acme", [], epoch + 5)
    assert not watch.is_current("acme", [], -1)
    clock.now = CURRENT_S + 0.1
    assert not watch.is_current("acme", [], epoch)
