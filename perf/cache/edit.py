"""One document of many is edited under load: only the answers that stand on it may end, and they must within a second.

The collection has `num_documents` files of one passage each. Every question about some of them is asked until it is a
hit. Then, while clients go on asking all of them (and one of them the edited file's question alone, back to back), one
file gives way to another text. Each question's evidence is known before and after (asked past the cache), so which
answers had to end is counted, not guessed:

    dependants  questions whose retrieved passages hold the old file before, or the new one after
    ended       questions that were answered anew after the edit; not_ended, ended_needlessly: beside what had to;
                not_asked: dependants that nobody asked about in the end
    kept_wrongly  questions whose remembered answer stands on other passages than are found, once the load is over
    stale_s     the last old answer of a dependant: seconds after the edit was confirmed
    fresh_s     the first new answer: seconds after the new file was confirmed as searchable
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx
import uvloop

from perf import rows as rows_module
from perf.cache.client import Connection, question, request
from perf.ingest import attached, client_of, finished, uploaded
from perf.rows import Row
from perf.service import Service, running_service

PLACES = ("Aldmere", "Brunswater", "Corrick", "Dunhaven", "Estermouth", "Farlow", "Gansey", "Holmcliff", "Inverpool",
          "Jarrowick")  # fmt: skip
THINGS = ("lock", "sluice", "weir", "quay", "crane", "ferry", "buoy", "jetty", "basin", "pump")
KEEPERS = (
    "Anders",
    "Bellamy",
    "Carver",
    "Dorset",
    "Ellery",
    "Fenwick",
    "Garland",
    "Hobson",
    "Irving",
    "Jessop",
)
BATCH = 100
LIMIT_S = 1.0


@dataclass(frozen=True)
class Size:
    """num_asked: questions, each about a file of its own. edits: one after another."""

    num_documents: int = 1000
    num_asked: int = 300
    num_edits: int = 5
    num_clients: int = 8
    after_s: float = 8.0


QUICK = Size(num_documents=20, num_asked=10, num_edits=1, num_clients=2, after_s=1.5)


class Asked(NamedTuple):
    """One answer under load."""

    number: int
    sent_s: float
    done_s: float
    verdict: str
    tells: str  # of the edited file's own question: the `old` keeper, the `new` one; else empty


class Edit(NamedTuple):
    """Seconds on the monotonic clock: when the old file was sent to be removed, when that was confirmed, when the new
    one was confirmed as searchable. num_wrong: questions whose remembered answer does not stand on what is found."""

    number: int
    sent_s: float
    gone_s: float
    there_s: float
    dependants: list[int]
    num_wrong: int
    asked: list[Asked]


def thing_of(number: int) -> str:
    """A name that no other file has."""
    place, thing, row = PLACES[number % 10], THINGS[number // 10 % 10], number // 100
    return f"{thing} number {row + 1} of {place}"


def keeper_of(number: int, edition: int = 0) -> str:
    return f"{KEEPERS[(number + 3 * edition) % 10]} {KEEPERS[(number // 10 + 7 * edition) % 10]}"


def text_of(number: int, edition: int = 0) -> str:
    return (
        f"The {thing_of(number)} is looked after by {keeper_of(number, edition)}. It was painted in the spring of "
        f"{1900 + number % 100 + edition}, and its register lies with the harbour office of {PLACES[number % 10]}."
    )


def question_of(number: int) -> str:
    return f"Who looks after the {thing_of(number)}?"


def run(size: Size) -> tuple[list[Row], dict[str, Any]]:
    with running_service(cache=True, gateway_workers=1, log_level="warning") as service:
        return uvloop.run(_measure(service, size))


async def _measure(service: Service, size: Size) -> tuple[list[Row], dict[str, Any]]:
    async with client_of(service) as client:
        files = {f"{number}.txt": text_of(number).encode() for number in range(size.num_documents)}
        collection, ids = await uploaded(client, files)
        for at in range(0, len(ids), BATCH):
            batch = await attached(client, collection, ids[at : at + BATCH])
            await finished(client, collection, batch)
        numbers = [at * size.num_documents // size.num_asked for at in range(size.num_asked)]
        edits = []
        for edition in range(1, size.num_edits + 1):
            changed = numbers[(edition * 37) % len(numbers)]
            edits.append(await _edited(service, client, collection, ids, changed, edition, numbers, size))
    rows = [Row(f"edit/{each.verdict}", at, each.sent_s, each.sent_s, each.done_s)
            for at, edit in enumerate(edits) for each in edit.asked]  # fmt: skip
    return rows, summary([_figures(edit, numbers) for edit in edits], rows)


async def _edited(
    service: Service, client: httpx.AsyncClient, collection: str, ids: list[str], changed: int, edition: int,
    numbers: Sequence[int], size: Size,
) -> Edit:  # fmt: skip
    before = await _evidence(service, collection, numbers)
    raw = {n: request(service.key, question(question_of(n), collections=[collection])) for n in numbers}
    connection = Connection(service.settings.port)
    for number in numbers:
        await connection.ask(raw[number])
    again = [(await connection.ask(raw[number])).verdict for number in numbers]
    connection.close()
    if set(again) != {"exact"}:
        raise RuntimeError(f"not all questions are hits before the edit: {sorted(set(again))}")
    asked, stop = list[Asked](), asyncio.Event()
    keepers = {"old": keeper_of(changed), "new": keeper_of(changed, edition)}

    async def load(at: int) -> None:
        own = Connection(service.settings.port)
        turn = at * len(numbers) // size.num_clients
        while not stop.is_set():
            number = numbers[turn % len(numbers)] if at else changed  # one asks that alone
            turn += 1
            reply = await own.ask(raw[number])
            said = reply.json()["choices"][0]["message"]["content"] if number == changed else ""
            tells = next((name for name, keeper in keepers.items() if keeper in said), "")
            asked.append(Asked(number, reply.sent_s, reply.done_s, reply.verdict, tells))
        own.close()

    async with asyncio.TaskGroup() as group:
        for at in range(size.num_clients):
            group.create_task(load(at))
        await asyncio.sleep(1.0)
        sent_s = time.perf_counter()
        (await client.delete(f"/v1/vector_stores/{collection}/files/{ids[changed]}")).raise_for_status()
        gone_s = time.perf_counter()
        ids[changed], there_s = await _replaced(client, collection, changed, edition)
        await asyncio.sleep(size.after_s)
        stop.set()
    after = await _evidence(service, collection, numbers)
    dependants = [number for number in numbers if before[number] != after[number]]
    given = await _evidence(service, collection, numbers, "use")
    num_wrong = sum(given[number] != after[number] for number in numbers)
    return Edit(changed, sent_s, gone_s, there_s, dependants, num_wrong, asked)


async def _replaced(
    client: httpx.AsyncClient, collection: str, number: int, edition: int
) -> tuple[str, float]:
    """The new file's id, and when it was searchable."""
    data = {"file": (f"{number}-{edition}.txt", text_of(number, edition).encode())}
    made = await client.post("/v1/files", files=data, data={"purpose": "assistants"})
    file_id = str(made.raise_for_status().json()["id"])
    await finished(client, collection, await attached(client, collection, [file_id]))
    return file_id, time.perf_counter()


async def _evidence(
    service: Service, collection: str, numbers: Sequence[int], cache: str = "off"
) -> dict[int, frozenset[tuple[str, int]]]:
    """What retrieval finds for each question, asked past the cache, or what its remembered answer stands on."""
    connection, out = Connection(service.settings.port), {}
    for number in numbers:
        body = question(question_of(number), cache=cache, collections=[collection])
        found = (await connection.ask(request(service.key, body))).json()["tidegate"]["receipt"]["passages"]
        out[number] = frozenset((each["file_id"], each["start"]) for each in found)
    connection.close()
    return out


def _figures(edit: Edit, numbers: Sequence[int]) -> dict[str, Any]:
    after = [each for each in edit.asked if each.sent_s > edit.sent_s]
    ended = {each.number for each in after if each.verdict == "miss"}
    needed = set(edit.dependants)
    asked_late = {each.number for each in after if each.sent_s > edit.there_s + LIMIT_S}
    stale = [each.sent_s for each in after if each.tells == "old" and each.sent_s > edit.gone_s]
    fresh = [each.done_s for each in after if each.tells == "new"]
    return {
        "edited": edit.number,
        "dependants": len(needed),
        "ended": len(ended),
        "ended_needlessly": len(ended - needed),
        "not_ended": len((needed - ended) & asked_late),
        "not_asked": len(needed - ended - asked_late),
        "kept_wrongly": edit.num_wrong,
        "kept": len(set(numbers) - ended),
        "stale_s": round(max(stale, default=edit.gone_s) - edit.gone_s, 3),
        "ingest_s": round(edit.there_s - edit.gone_s, 3),
        "fresh_s": round(min(fresh, default=float("inf")) - edit.there_s, 3),
        "asked": len(edit.asked),
    }


def summary(edits: list[dict[str, Any]], rows: list[Row]) -> dict[str, Any]:
    return {"edits": edits, "latency_ms": rows_module.latencies(rows)}


def show(found: dict[str, Any]) -> None:
    print("\none document edited under load (targets: only dependants end; stale < 1 s)")
    for edit in found["edits"]:
        print("  " + "  ".join(f"{name} {value}" for name, value in edit.items()))
