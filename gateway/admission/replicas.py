"""Slots follow replicas: the sum over those that are ready now, of every tier.

On one machine the guards are asked, who know a sick replica from a well one. In a cluster a headless Service's name has
one address for each pod that is ready. Where nobody can be asked nothing changes: the last count stays, so a DNS
outage neither closes nor floods a tier.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

LOOK_EVERY_S = 1.0
ASK_S = 0.5
Count = Callable[[Sequence[str]], Awaitable[int | None]]

log = logging.getLogger("tidegate.replicas")


class Resizable(Protocol):
    def resize(self, limit: int, /) -> None: ...


class Line(NamedTuple):
    """A tier's queue. per_replica: slots of one replica. hosts: what the replicas are counted by, each of them once."""

    queue: Resizable
    per_replica: int
    hosts: tuple[str, ...]


async def count_addresses(hosts: Sequence[str]) -> int | None:
    """Addresses behind DNS names: 0 when they have none, None when nobody could be asked.

    Each counts once: between two rollouts a canary's name leads to the very pods of the version in force.
    """
    found = [await _addresses(host) for host in hosts]
    if None in found:
        return None
    return len(set[str]().union(*filter(None, found)))


async def _addresses(host: str) -> set[str] | None:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return set() if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA} else None
    except OSError:
        return None
    return {str(address[0]) for *_, address in found}


class Guards:
    """The guards of this machine's replicas, by their health ports."""

    def __init__(self, ports: Sequence[int], host: str = "127.0.0.1") -> None:
        self._ports, self._host = ports, host

    async def count(self, _: Sequence[str]) -> int | None:
        """Replicas that are well. None = not one of them: the edge says so better than a tier without slots."""
        answers = await asyncio.gather(*(self._is_well(port) for port in self._ports))
        return sum(answers) or None

    async def _is_well(self, port: int) -> bool:
        try:
            async with asyncio.timeout(ASK_S):
                reader, writer = await asyncio.open_connection(self._host, port)
                try:
                    writer.write(b"GET /health HTTP/1.1\r\nhost: guard\r\nconnection: close\r\n\r\n")
                    status = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in status


class ReplicaWatch:
    """lines: by tier."""

    def __init__(self, lines: Mapping[str, Line], *, count: Count = count_addresses) -> None:
        self._lines, self._count = lines, count
        self._limits: dict[str, int] = {}

    async def look(self) -> None:
        """Count once and set the limits."""
        counts: dict[tuple[str, ...], int | None] = {}
        for name, line in self._lines.items():
            if line.hosts not in counts:
                counts[line.hosts] = await self._count(line.hosts)
            num_replicas = counts[line.hosts]
            if num_replicas is None:
                continue
            # One slot stays with none there: whoever takes it meets the tier's fallback, and starts nothing else.
            limit = max(1, line.per_replica * num_replicas)
            if limit != self._limits.get(name):
                self._limits[name] = limit
                log.info("tier %s: %d replicas, %d slots", name, num_replicas, limit)
                line.queue.resize(limit)

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)
