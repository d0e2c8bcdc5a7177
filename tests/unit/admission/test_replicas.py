"""Slots follow the number of replicas; names are counted by a scripted DNS."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.admission.replicas import Line, ReplicaWatch, count_addresses


@dataclass
class Slots:
    limit: int = 1


class Names:
    def __init__(self, **counts: int | None) -> None:
        self.counts = counts

    async def count(self, host: str) -> int | None:
        return self.counts[host]


def watch(names: Names, slots: Slots, *hosts: str, workers: str = "") -> ReplicaWatch:
    return ReplicaWatch({"small": Line(slots, 16, hosts)}, workers_host=workers, count=names.count)


async def test_slots_are_those_of_all_replicas() -> None:
    slots = Slots()
    await watch(Names(small=3), slots, "small").look()
    assert slots.limit == 48


async def test_workers_share_them() -> None:
    slots = Slots()
    await watch(Names(small=3, gateway=4), slots, "small", workers="gateway").look()
    assert slots.limit == 12


async def test_a_dns_outage_changes_nothing() -> None:
    names, slots = Names(small=3, gateway=2), Slots()
    seen = watch(names, slots, "small", workers="gateway")
    await seen.look()
    names.counts = {"small": None, "gateway": None}
    await seen.look()
    assert slots.limit == 24


async def test_a_version_on_trial_does_not_add_slots_and_the_change_takes_none() -> None:
    names, slots = Names(small=3, canary=1), Slots()
    seen = watch(names, slots, "small", "canary")
    await seen.look()
    assert slots.limit == 48
    names.counts = {"small": 0, "canary": 3}
    await seen.look()
    assert slots.limit == 48


async def test_a_tier_without_replicas_keeps_one_slot() -> None:
    slots = Slots(5)
    await watch(Names(small=0), slots, "small").look()
    assert slots.limit == 1


async def test_addresses_are_counted() -> None:
    assert await count_addresses("127.0.0.1") == 1
