"""Which version of a model a conversation meets; replicas are real sockets that answer as a guard does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from gateway.tiering.versions import Met, Sides, Versions, versions_of

STABLE, CANARY = 94, 95  # pins on either side of a share of 5 %


class Told:
    """What the guards behind each name say."""

    def __init__(self, **hosts: list[str] | None) -> None:
        self.hosts = hosts

    async def ask(self, host: str, port: int) -> list[str] | None:
        return self.hosts[host]

    def versions(self, sides: Sides) -> Versions:
        return Versions({"small": sides}, percent=5, port=1, ask=self.ask)


async def met(told: Told, sides: Sides, pin: int) -> Met:
    versions = told.versions(sides)
    await versions.look()
    return versions.met("small", pin)


BOTH = Sides("stable", "canary")


async def test_a_conversation_meets_the_version_of_its_side() -> None:
    told = Told(stable=["v1", "v1"], canary=["v2"])
    assert await met(told, BOTH, STABLE) == Met("stable", "v1")
    assert await met(told, BOTH, CANARY) == Met("canary", "v2")
    assert await met(told, BOTH, CANARY + 300) == Met("canary", "v2")


async def test_the_share_is_the_balancers() -> None:
    """tests/integration/supervise/test_canary_share.py asks a real one."""
    versions = Told(stable=["v1"], canary=["v2"]).versions(BOTH)
    await versions.look()
    assert sum(versions.met("small", pin).side == "canary" for pin in range(1000)) == 50


async def test_without_a_canary_at_work_its_share_meets_the_version_in_force() -> None:
    assert await met(Told(stable=["v1"], canary=[]), BOTH, CANARY) == Met("stable", "v1")


async def test_between_rollouts_both_names_lead_to_one_version_and_nothing_is_on_trial() -> None:
    """Argo Rollouts points the canary's Service at the version in force then."""
    told = Told(stable=["v1", "v1"], canary=["v1", "v1"])
    assert await met(told, BOTH, CANARY) == Met("stable", "v1")


@pytest.mark.parametrize("stable", [["v1", "v2"], ["v1", ""], []], ids=["two", "one-without", "none"])
async def test_where_a_side_is_no_one_version_there_is_no_telling(stable: list[str]) -> None:
    assert (await met(Told(stable=stable), Sides("stable"), STABLE)).version is None


async def test_without_names_the_two_sides_cannot_be_told_apart() -> None:
    told = Told(stable=[""], canary=[""])
    assert [await met(told, BOTH, pin) for pin in (STABLE, CANARY)] == [
        Met("stable", None),
        Met("canary", None),
    ]
    assert await met(told, Sides("stable"), STABLE) == Met("stable", "")


async def test_a_tier_without_replicas_elsewhere_has_one_version() -> None:
    assert Told().versions(BOTH).met("fast", CANARY) == Met("stable", "")


@pytest.mark.parametrize("away", [None, []], ids=["dns-away", "no-replica"])
async def test_what_was_told_holds_while_nobody_tells_anything_else(away: list[str] | None) -> None:
    told = Told(stable=["v1"])
    versions = told.versions(Sides("stable"))
    await versions.look()
    told.hosts["stable"] = away
    await versions.look()
    assert versions.met("small", STABLE) == Met("stable", "v1")
    told.hosts["stable"] = ["v2"]
    await versions.look()
    assert versions.met("small", STABLE) == Met("stable", "v2")


async def test_a_canary_that_is_gone_is_met_no_more() -> None:
    told = Told(stable=["v1"], canary=["v2"])
    versions = told.versions(BOTH)
    await versions.look()
    told.hosts["canary"] = []
    await versions.look()
    assert versions.met("small", CANARY) == Met("stable", "v1")


Serve = Callable[[bytes], "asyncio.Future[int]"]


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[[bytes], object]]:
    servers: list[asyncio.Server] = []

    async def made(body: bytes) -> int:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + body)
            await writer.drain()
            writer.close()

        servers.append(await asyncio.start_server(answer, "127.0.0.1", 0))
        return int(servers[-1].sockets[0].getsockname()[1])

    yield made
    for server in servers:
        server.close()


@pytest.mark.parametrize(
    ("body", "versions"),
    [
        (json.dumps({"replica": 0, "state": "ready", "reason": "", "version": "v7"}).encode(), ["v7"]),
        (json.dumps({"replica": 0, "state": "draining", "reason": "", "version": "v7"}).encode(), []),
        (json.dumps({"replica": 0, "state": "ready", "reason": ""}).encode(), [""]),
        (b"<html>", []),
        (b"", []),
    ],
    ids=["ready", "draining", "unnamed", "not-json", "nothing"],
)
async def test_a_guard_is_asked_over_the_network(
    serve: Callable[[bytes], object], body: bytes, versions: list[str]
) -> None:
    port = await serve(body)  # type: ignore[misc]
    assert await versions_of("127.0.0.1", port) == versions


async def test_a_name_without_replicas_and_a_port_without_a_guard_tell_no_version(
    unused_tcp_port: int,
) -> None:
    assert await versions_of("replicas.invalid", 1) in ([], None)  # as this machine's resolver has it
    assert await versions_of("127.0.0.1", unused_tcp_port) == []
