"""Slots follow the number of replicas; names are counted by a scripted DNS."""

from __future__ import annotations

from gateway.admission.replicas import Line, ReplicaWatch, count_addresses


class Slots:
    limit = 1

    def resize(self, limit: int, /) -> None:
        self.limit = limit


class Names:
    def __init__(self, **counts: int | None) -> None:
        self.counts = counts

    async def count(self, host: str) -> int | None:
        return self.counts[host]


def watch(names: Names, slots: Slots, *hosts: str) -> ReplicaWatch:
    return ReplicaWatch({"small": Line(slots, 16, hosts)}, count=names.count)


async def test_slots_are_those_of_all_replicas() -> None:
    slots = Slots()
    await watch(Names(small=3, canary=1), slots, "small", "canary").look()
    assert slots.limit == 64


async def test_a_dns_outage_changes_nothing() -> None:
    names, slots = Names(small=3, canary=1), Slots()
    seen = watch(names, slots, "small", "canary")
    await seen.look()
    names.counts = {"small": 3, "canary": None}
    await seen.look()
    assert slots.limit == 64


async def test_a_tier_without_replicas_keeps_one_slot() -> None:
    slots = Slots()
    slots.limit = 5
    await watch(Names(small=0), slots, "small").look()
    assert slots.limit == 1


async def test_addresses_are_counted() -> None:
    assert await count_addresses("127.0.0.1") == 1
