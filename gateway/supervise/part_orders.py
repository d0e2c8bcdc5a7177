"""Restarts and drains of single parts, as the gateway's alert receiver orders them: by supervisord, on one machine.

A part that is told to stop finishes its open work first. Never the last of its kind is drained, and none is
restarted while another of its kind is away.
"""

from __future__ import annotations

import asyncio
import http.client
import xmlrpc.client
from typing import Any

from gateway.api.alert_memory import Refused
from gateway.errors import UpstreamUnavailable
from gateway.settings import Settings
from gateway.supervise.instance import all_ports
from gateway.supervise.render import programs

PARTS = ("gateway", "triton", "ingest")
RPC_LIMIT_S = 5.0


class SupervisedParts:
    """supervisord over its XML-RPC interface. Implements gateway.api.alert_memory.PartOrders."""

    def __init__(self, settings: Settings, password: str) -> None:
        self._address = f"http://tidegate:{password}@127.0.0.1:{settings.supervisor_port}/RPC2"
        self._groups = {program.name: program.group for program in programs(settings)}
        self._by_port = {port: name.removesuffix("-metrics") for name, port in all_ports(settings).items()}

    async def restart(self, part: str, instance: str) -> str:
        """SIGTERM; supervisord starts again what ended."""
        name = self._member(part, instance)
        states = await self._call(self._states)
        away = [each for each in self._others(name) if states.get(each) != "RUNNING"]
        if away:
            raise Refused(f"{away[0]} is away too: not both at once.")
        await self._call(lambda proxy: proxy.supervisor.signalProcess(self._full(name), "TERM"))
        return name

    async def drain(self, part: str, instance: str) -> str:
        name = self._member(part, instance)
        states = await self._call(self._states)
        if not any(states.get(each) == "RUNNING" for each in self._others(name)):
            raise Refused(f"{name} is the last of its kind.")
        await self._call(lambda proxy: proxy.supervisor.stopProcess(self._full(name), False))
        return name

    async def resume(self, part: str, instance: str) -> str:
        name = self._member(part, instance)
        states = await self._call(self._states)
        if states.get(name) not in {"RUNNING", "STARTING"}:
            await self._call(lambda proxy: proxy.supervisor.startProcess(self._full(name), False))
        return name

    def _member(self, part: str, instance: str) -> str:
        """Raises: Refused."""
        if part not in PARTS:
            raise Refused(f"There is no part {part[:50]!r}; there are: {', '.join(PARTS)}.")
        if part in self._groups:  # one of a kind
            return part
        port = instance.rpartition(":")[2]
        name = self._by_port.get(int(port), "") if port.isdecimal() and len(port) < 6 else ""
        if self._groups.get(name) != part:
            raise Refused(f"{instance[:100]!r} is no instance of {part} here.")
        return name

    def _others(self, name: str) -> list[str]:
        group = self._groups[name]
        return [each for each, other in self._groups.items() if group and other == group and each != name]

    def _full(self, name: str) -> str:
        return f"{self._groups[name]}:{name}" if self._groups[name] else name

    def _states(self, proxy: Any) -> dict[str, str]:
        return {str(info["name"]): str(info["statename"]) for info in proxy.supervisor.getAllProcessInfo()}

    async def _call(self, call: Any) -> Any:
        """Raises: UpstreamUnavailable."""

        def work() -> Any:
            with xmlrpc.client.ServerProxy(self._address, transport=_Transport()) as proxy:
                return call(proxy)

        try:
            return await asyncio.to_thread(work)
        except (OSError, xmlrpc.client.Error, http.client.HTTPException) as error:
            raise UpstreamUnavailable("The process manager did not do it.", detail=repr(error)) from error


class _Transport(xmlrpc.client.Transport):
    """With a limit: a manager that hangs must not hold a thread for ever."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = RPC_LIMIT_S
        return connection
