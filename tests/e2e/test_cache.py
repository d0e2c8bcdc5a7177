"""The answer cache in the whole service: what is given again, and what a change, an order or a revoked key ends."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from gateway.storage import keys
from gateway.storage.database import Database
from tests.e2e.conftest import Service, wait_for

QUESTION = "Which harbour has a beacon of 25 metres?"
NUM_DOCUMENTS = 30  # of which one is edited
COUNTS_WITHIN_S = 1.0  # a change that was made: every search has it then, and every worker knows
FORGOTTEN_WITHIN_S = 2.0  # a worker looks for changes every 0.8 s at the latest; the rest is several answers


def ask(client: httpx.Client, question: str, store: str, **ours: Any) -> dict[str, Any]:
    body = {
        "model": "fast",
        "messages": [{"role": "user", "content": question}],
        "tidegate": {"collections": [store], "top_k": 1, **ours},
    }
    reply = client.post("/v1/chat/completions", json=body)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def verdict(reply: dict[str, Any]) -> str:
    return str(reply["tidegate"]["receipt"]["cache"])


def upload(
    client: httpx.Client, store: str, name: str, text: str, headers: dict[str, str] | None = None
) -> str:
    files = {"file": (name, text.encode())}
    made = client.post("/v1/files", data={"purpose": "assistants"}, files=files, headers=headers)
    file_id = made.json()["id"]
    client.post(f"/v1/vector_stores/{store}/files", json={"file_id": file_id}, headers=headers)
    return str(file_id)


def all_ingested(client: httpx.Client, store: str, headers: dict[str, str] | None = None) -> None:
    def is_done() -> bool:
        counts = client.get(f"/v1/vector_stores/{store}", headers=headers).json()["file_counts"]
        return bool(counts["completed"] == counts["total"])

    wait_for(is_done, 60, "all files are ingested")
    time.sleep(COUNTS_WITHIN_S)  # what is answered from a search of before is not given after it


def question_about(number: int) -> str:
    return f"How tall is the beacon of harbour Alba{number}?"


@pytest.fixture(scope="module")
def beacons(service: Service) -> tuple[str, list[str]]:
    """A collection, and the ids of its files."""
    with service.client() as client:
        store = str(client.post("/v1/vector_stores", json={"name": "beacons"}).json()["id"])
        files = [
            upload(
                client,
                store,
                f"b{n}.md",
                f"# Alba{n}\n\nThe beacon of harbour Alba{n} is {n + 20} metres tall.\n",
            )
            for n in range(NUM_DOCUMENTS)
        ]
        all_ingested(client, store)
    return store, files


def test_a_question_is_answered_once_and_then_remembered(
    service: Service, beacons: tuple[str, list[str]]
) -> None:
    store, _ = beacons
    with service.client() as client:
        first, second = (ask(client, QUESTION, store) for _ in range(2))
        off = ask(client, QUESTION, store, cache="off")
        anew = ask(client, QUESTION, store, cache="refresh")
    assert [verdict(each) for each in (first, second, off, anew)] == ["miss", "exact", "off", "refresh"]
    assert first["choices"][0]["message"] == second["choices"][0]["message"] == off["choices"][0]["message"]
    receipt = second["tidegate"]["receipt"]
    assert receipt["outcome"] == "cached"
    # It needs no search once the workers have looked at the documents since.
    with service.client() as client:
        wait_for(
            lambda: ask(client, QUESTION, store)["tidegate"]["receipt"]["queue_ms"] < 0,
            10,
            "a hit takes no slot",
        )
    assert second["usage"]["total_tokens"] < first["usage"]["total_tokens"]


def test_an_edited_document_ends_its_answers_and_no_others(
    service: Service, beacons: tuple[str, list[str]]
) -> None:
    store, files = beacons
    edited = 7
    with service.client() as client:
        for number in range(NUM_DOCUMENTS):
            ask(client, question_about(number), store)
        assert {verdict(ask(client, question_about(n), store)) for n in range(NUM_DOCUMENTS)} == {"exact"}
        name = f"b{edited}.md"
        upload(
            client, store, name, f"# Alba{edited}\n\nThe beacon of harbour Alba{edited} is 99 metres tall.\n"
        )
        all_ingested(client, store)
        client.delete(f"/v1/vector_stores/{store}/files/{files[edited]}")
        since = time.monotonic()

        def is_new() -> bool:
            return "99" in ask(client, question_about(edited), store)["choices"][0]["message"]["content"]

        wait_for(is_new, FORGOTTEN_WITHIN_S, "the new text is quoted")
        assert time.monotonic() - since < FORGOTTEN_WITHIN_S
        others = [n for n in range(NUM_DOCUMENTS) if n != edited]
        kept = [verdict(ask(client, question_about(n), store)) for n in others]
    assert kept == ["exact"] * len(others)


def test_many_who_ask_the_same_at_once_are_one_piece_of_work(
    service: Service, beacons: tuple[str, list[str]]
) -> None:
    store, _ = beacons
    with service.client() as client, ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda _: ask(client, "Who paints the beacons of Alba?", store), range(120)))
    told = [verdict(reply) for reply in replies]
    assert told.count("miss") == 1
    assert set(told) <= {"miss", "joined", "exact"}
    assert len({reply["choices"][0]["message"]["content"] for reply in replies}) == 1


def test_an_operator_purges_a_file(service: Service, beacons: tuple[str, list[str]]) -> None:
    store, files = beacons
    with service.client() as client:
        for number in (1, 2):
            ask(client, question_about(number), store)
        command = [
            sys.executable,
            "-m",
            "gateway",
            "cache",
            "purge",
            "--tenant",
            "default",
            "--file",
            files[1],
        ]
        done = subprocess.run(
            [*command, "--var", str(service.var)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        told = [verdict(ask(client, question_about(number), store)) for number in (1, 2)]
    assert told == ["miss", "exact"]
    command = [sys.executable, "-m", "gateway", "cache", "stats", "--json", "--var", str(service.var)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert '"default"' in shown.stdout


def a_key(service: Service, tenant: str, *, is_admin: bool = False) -> tuple[str, str]:
    """A new key's id, and the key."""
    database = Database(service.settings.sql_url)
    with database.write() as conn:
        row, key = keys.create_key(conn, tenant=tenant, name="test", is_admin=is_admin)
    database.close()
    return row.id, key


def asked_with(
    client: httpx.Client, key: str, question: str, store: str, model: str = "fast"
) -> httpx.Response:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "tidegate": {"collections": [store], "top_k": 1},
    }
    return client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"})


def test_another_tenant_gets_nothing(service: Service, beacons: tuple[str, list[str]]) -> None:
    store, _ = beacons
    _, rival = a_key(service, "rival")
    with service.client() as client:
        ask(client, question_about(3), store)
        headers = {"authorization": f"Bearer {rival}"}
        body = {"model": "fast", "messages": [{"role": "user", "content": question_about(3)}]}
        foreign = client.post("/v1/chat/completions", json=body, headers=headers).json()
        assert verdict(foreign) == "miss"
        assert foreign["tidegate"]["receipt"]["passages"] == []
        assert asked_with(client, rival, question_about(3), store).status_code == 404


def test_a_revoked_key_gets_no_hit(service: Service, beacons: tuple[str, list[str]]) -> None:
    store, _ = beacons
    key_id, key = a_key(service, keys.DEFAULT_TENANT)
    with service.client() as client:
        ask(client, question_about(4), store)
        assert verdict(asked_with(client, key, question_about(4), store).json()) == "exact"
        command = [sys.executable, "-m", "gateway", "keys", "revoke", key_id, "--var", str(service.var)]
        subprocess.run(command, capture_output=True, check=True)
        wait_for(
            lambda: asked_with(client, key, question_about(4), store).status_code == 401,
            FORGOTTEN_WITHIN_S,
            "the key is refused",
        )
        for _ in range(5):
            assert asked_with(client, key, question_about(4), store).status_code == 401
        assert verdict(ask(client, question_about(4), store)) == "exact"  # whose key still stands


def test_a_revoked_right_gets_no_hit(service: Service) -> None:
    _, key = a_key(service, "narrowed")
    _, operator = a_key(service, "operator", is_admin=True)
    path, admin = "/admin/tenants/narrowed", {"authorization": f"Bearer {operator}"}
    with service.client() as client:
        own = {"authorization": f"Bearer {key}"}
        store = client.post("/v1/vector_stores", json={"name": "own"}, headers=own).json()["id"]
        upload(client, store, "own.md", "# Own\n\nThe beacon of harbour Own is 25 metres tall.\n", own)
        all_ingested(client, store, own)  # what is remembered before holds for the store as it was then

        def is_met() -> bool:
            return verdict(asked_with(client, key, QUESTION, store).json()) == "exact"

        wait_for(is_met, 30, "the answer is remembered")
        assert client.put(path, json={"tiers": ["deep"], "floor": ""}, headers=admin).status_code == 200
        refused = asked_with(client, key, QUESTION, store)
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
        assert asked_with(client, key, QUESTION, store, "deep").status_code == 200
        assert client.put(path, json={"tiers": [], "floor": ""}, headers=admin).status_code == 200
        assert is_met()  # it was not lost, only not given
