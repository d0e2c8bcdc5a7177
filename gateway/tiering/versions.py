"""Which version of a tier's model a conversation meets, where a rollout may have two of them at work.

Each replica's guard tells the version that its pod is labelled with. A conversation's pin decides its side as the
balancer decides it: the canary's while that has a ready replica. Where a side has two versions at once, in the middle
of an update, or nobody has said, there is no telling.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal, NamedTuple

import msgspec

LOOK_EVERY_S = 2.0
ASK_S = 1.0
MAX_ANSWER_BYTES = 4096

log = logging.getLogger("tidegate.versions")

Side = Literal["stable", "canary"]


class Met(NamedTuple):
    """version: None = there is no telling; "" = the tier's replicas have none."""

    side: Side
    version: str | None


def one_version(tier: str, pin: int) -> Met:
    """Of tiers that no rollout tells versions of."""
    return Met("stable", "")


class Sides(NamedTuple):
    """DNS names of a tier's replicas. canary: empty where there is none."""

    stable: str
    canary: str = ""


class _Health(msgspec.Struct):
    state: str = ""
    version: str = ""


_decode = msgspec.json.Decoder(_Health).decode


async def versions_of(host: str, port: int) -> list[str] | None:
    """What the guards behind a DNS name say of replicas that are ready; None where nobody could be asked."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return [] if error.errno in {socket.EAI_NONAME, socket.EAI_NODATA} else None
    except OSError:
        return None
    addresses = {str(address[0]) for *_, address in found}
    told = await asyncio.gather(*(_ask(address, port) for address in addresses))
    return [each.version for each in told if each is not None and each.state == "ready"]


async def _ask(address: str, port: int) -> _Health | None:
    """None = no answer that can be read."""
    try:
        async with asyncio.timeout(ASK_S):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"GET /health HTTP/1.1\r\nhost: guard\r\nconnection: close\r\n\r\n")
                answer = await reader.read(MAX_ANSWER_BYTES)
            finally:
                writer.close()
        return _decode(answer.partition(b"\r\n\r\n")[2])
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None


class Versions:
    """tiers: those whose replicas are elsewhere; of every other one there is one version and no name for it.
    percent: of the conversations that go to a canary. port: of the guards."""

    def __init__(
        self,
        tiers: Mapping[str, Sides],
        *,
        percent: int,
        port: int,
        ask: Callable[[str, int], Awaitable[list[str] | None]] = versions_of,
    ) -> None:
        self._tiers, self._percent, self._port, self._ask = tiers, percent, port, ask
        self._found: dict[str, list[str]] = {}  # by host, as it was last told

    def met(self, tier: str, pin: int) -> Met:
        """By a request of that conversation now."""
        sides = self._tiers.get(tier)
        if sides is None:
            return Met("stable", "")
        on_trial = self._found.get(sides.canary, []) if sides.canary else []
        version = _one(self._found.get(sides.stable, []))
        if on_trial and pin % 100 >= 100 - self._percent:  # Envoy counts the shares in this order too
            other = _one(on_trial) or None
            # Between two rollouts the canary's name leads to the very pods of the version in force: no trial.
            return Met("stable" if other is not None and other == version else "canary", other)
        # Without a name the two sides cannot be told apart.
        return Met("stable", version if version or not sides.canary else None)

    async def look(self) -> None:
        stable = {sides.stable for sides in self._tiers.values()}
        hosts = stable | {sides.canary for sides in self._tiers.values() if sides.canary}
        for host in sorted(hosts):
            told = await self._ask(host, self._port)
            if told is None or (not told and host in stable):
                continue  # what was so stays so: an answer says itself which version made it
            if set(told) != set(self._found.get(host, [])):
                log.info("%s serves %s", host, ", ".join(sorted(set(told) - {""})) or "no version by name")
            self._found[host] = told

    async def run(self) -> None:
        while self._tiers:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)


def _one(versions: list[str]) -> str | None:
    """The one that all have."""
    return versions[0] if len(set(versions)) == 1 else None
