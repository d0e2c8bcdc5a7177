"""Two gateway workers over two replicas: a change, a deletion and an operator's order reach all of them in a second.

Each worker is asked at its own port, so that nobody's luck with a balancer decides.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from gateway.storage import keys
from tests.e2e.conftest import Launch, Service, wait_for
from tests.e2e.test_cache import FORGOTTEN_WITHIN_S, a_key, all_ingested, ask, question_about, upload, verdict

NUM_DOCUMENTS = 8
LOOKS_AGAIN = 6  # so often that both replicas are asked


@pytest.fixture(scope="module")
def service(launch: Launch) -> Service:
    return launch(gateway_workers=2, triton_replicas=2)


@pytest.fixture(scope="module")
def workers(service: Service) -> Iterator[list[httpx.Client]]:
    headers = {"authorization": f"Bearer {service.api_key}"}
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                httpx.Client(
                    base_url=f"http://127.0.0.1:{service.settings.worker_port(index)}",
                    headers=headers,
                    timeout=30,
                )
            )
            for index in range(2)
        ]


def beacon(number: int, height: int) -> str:
    return f"# Alba{number}\n\nThe beacon of harbour Alba{number} is {height} metres tall.\n"


def a_store(client: httpx.Client, name: str) -> tuple[str, list[str]]:
    """A collection and its files."""
    store = str(client.post("/v1/vector_stores", json={"name": name}).json()["id"])
    files = [upload(client, store, f"b{n}.md", beacon(n, n + 20)) for n in range(NUM_DOCUMENTS)]
    all_ingested(client, store)
    return store, files


def remembered_everywhere(
    workers: list[httpx.Client], store: str, numbers: range = range(NUM_DOCUMENTS)
) -> None:
    """Each worker gives each answer unseen."""
    for worker in workers:
        for number in numbers:

            def is_met(client: httpx.Client = worker, at: int = number) -> bool:
                reply = ask(client, question_about(at), store)
                return verdict(reply) == "exact" and reply["tidegate"]["receipt"]["queue_ms"] < 0

            wait_for(is_met, 30, "a hit takes no slot")


def text_of(worker: httpx.Client, number: int, store: str, **ours: str) -> str:
    return str(ask(worker, question_about(number), store, **ours)["choices"][0]["message"]["content"])


def test_an_edit_and_a_deletion_end_their_answers_in_every_worker(
    workers: list[httpx.Client],
) -> None:
    store, files = a_store(workers[0], "edited")
    edited, deleted = 3, 5
    remembered_everywhere(workers, store)
    upload(workers[0], store, f"b{edited}.md", beacon(edited, 99))
    all_ingested(workers[0], store)
    for number, is_so in ((edited, lambda text: "99" in text), (deleted, lambda text: "25" not in text)):
        workers[1].delete(f"/v1/vector_stores/{store}/files/{files[number]}")
        since = time.monotonic()
        for worker in workers:
            wait_for(
                lambda worker=worker, number=number, is_so=is_so: is_so(text_of(worker, number, store)),
                FORGOTTEN_WITHIN_S,
                "the old text is gone",
            )
        assert time.monotonic() - since < FORGOTTEN_WITHIN_S
        time.sleep(max(0.0, since + FORGOTTEN_WITHIN_S - time.monotonic()))  # from then on nobody, nowhere
        for worker in workers * LOOKS_AGAIN:
            assert is_so(text_of(worker, number, store))
            assert is_so(text_of(worker, number, store, cache="refresh"))  # and by either replica
    others = [n for n in range(NUM_DOCUMENTS) if n not in (edited, deleted)]
    for worker in workers:
        assert {verdict(ask(worker, question_about(n), store)) for n in others} == {"exact"}


@pytest.mark.parametrize("narrowed_to", ["tenant", "collection", "file"])
def test_a_purge_is_obeyed_by_every_worker(
    service: Service, workers: list[httpx.Client], narrowed_to: str
) -> None:
    (store, files), (other, _) = (a_store(workers[0], f"{narrowed_to}{n}") for n in range(2))
    _, rival = a_key(service, f"rival-{narrowed_to}")
    foreign = httpx.Client(
        base_url=workers[1].base_url, headers={"authorization": f"Bearer {rival}"}, timeout=30
    )
    theirs = str(foreign.post("/v1/vector_stores", json={"name": "theirs"}).json()["id"])
    for place in (store, other):
        remembered_everywhere(workers, place, range(4))
    remembered_everywhere([foreign], theirs, range(1))
    narrower = {
        "tenant": [[]],
        "collection": [["--collection", store]],
        "file": [["--file", file] for file in files[:2]],
    }
    for options in narrower[narrowed_to]:
        order = ["cache", "purge", "--tenant", keys.DEFAULT_TENANT, "--var", str(service.var), *options]
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *order], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    for number, worker in enumerate(workers):  # each is the first to be asked its question
        assert verdict(ask(worker, question_about(number), store)) == "miss"
    kept = {"tenant": [], "collection": [(other, 0), (other, 1)], "file": [(store, 2), (other, 0)]}[
        narrowed_to
    ]
    for place, number in kept:
        for worker in workers:
            assert verdict(ask(worker, question_about(number), place)) == "exact"
    assert verdict(ask(foreign, question_about(0), theirs)) == "exact"
    foreign.close()


def test_an_order_for_the_ladder_holds_in_every_worker(service: Service, workers: list[httpx.Client]) -> None:
    _, key = a_key(service, "ops", is_admin=True)
    question = {
        "model": "fast",
        "messages": [{"role": "user", "content": "What is it?"}],
        "tidegate": {"cache": "off"},
    }

    def order(worker: httpx.Client, *pinned: str) -> None:
        told = worker.put(
            "/admin/ladder", json={"pinned": pinned}, headers={"authorization": f"Bearer {key}"}
        )
        assert (told.status_code, told.json()["pinned"]) == (200, [*pinned])

    def all_say(status: int) -> None:
        for worker in workers:

            def says(client: httpx.Client = worker) -> bool:
                return client.post("/v1/chat/completions", json=question).status_code == status

            wait_for(says, 10, f"{worker.base_url} answers {status}")

    for worker in workers:
        order(worker, "refuse")
        all_say(503)
        order(worker)
        all_say(200)
