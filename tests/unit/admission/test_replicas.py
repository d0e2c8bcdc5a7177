"""Slots follow the number of replicas; names are counted by a scripted DNS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.admission.replicas import Line, ReplicaWatch, count_addresses


class Slots:
    limit = 1

    def resize(self, limit: int, /) -> None:
        self.limit = limit


class Names:
    """A DNS: addresses by name; None = nobody answers."""

    def __init__(self, **addresses: list[str] | None) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host: str, *_: object, **__: object) -> list[tuple[Any, ...]]:
        found = self.addresses[host]
        if not found:
            raise socket.gaierror(socket.EAI_AGAIN if found is None else socket.EAI_NONAME, "no")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    dns = Names(small=["10.0.0.1", "10.0.0.2", "10.0.0.3"], canary=["10.0.0.9"])
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", dns.getaddrinfo)
    return dns


def watch(slots: Slots, *hosts: str) -> ReplicaWatch:
    return ReplicaWatch({"small": Line(slots, 16, hosts)}, count=count_addresses)


async def test_slots_are_those_of_all_replicas(names: Names) -> None:
    slots = Slots()
    await watch(slots, "small", "canary").look()
    assert slots.limit == 64


async def test_a_replica_behind_both_names_counts_once(names: Names) -> None:
    """Argo Rollouts points the canary's Service at the version in force when no trial is under way."""
    slots = Slots()
    names.addresses["canary"] = names.addresses["small"]
    await watch(slots, "small", "canary").look()
    assert slots.limit == 48


async def test_a_dns_outage_changes_nothing(names: Names) -> None:
    slots = Slots()
    seen = watch(slots, "small", "canary")
    await seen.look()
    names.addresses["canary"] = None
    await seen.look()
    assert slots.limit == 64


async def test_a_tier_without_replicas_keeps_one_slot(names: Names) -> None:
    slots = Slots()
    slots.limit = 5
    names.addresses["small"] = []
    await watch(slots, "small").look()
    assert slots.limit == 1


async def test_tiers_behind_one_name_are_counted_by_one_question() -> None:
    asked: list[Sequence[str]] = []

    async def count(hosts: Sequence[str]) -> int:
        asked.append(hosts)
        return 2

    lines = {name: Line(Slots(), 8, ("retrieval",)) for name in ("fast", "deep")}
    await ReplicaWatch(lines, count=count).look()
    assert asked == [("retrieval",)]
    assert {line.queue.limit for line in lines.values() if isinstance(line.queue, Slots)} == {16}


async def test_addresses_are_counted() -> None:
    assert await count_addresses(["127.0.0.1", "127.0.0.1"]) == 1
