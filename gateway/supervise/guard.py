"""`python -m gateway.supervise.guard REPLICA`: the parent of one tritonserver.

Starts it, judges its health (canary.py has the rule), tells Envoy through a small HTTP endpoint, and takes the whole
process group down when it is sick: asking a sick Triton to stop takes its full exit timeout. A guard that is
killed takes Triton with it. Leaves restarting to the supervisor: exit 0 only after SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time

import psutil

from gateway.logs import set_up_logging
from gateway.settings import LOOPBACK, Settings, load_settings
from gateway.supervise.assets import Assets, find_assets
from gateway.supervise.canary import INTERVAL_S, Answer, Canary, Pulse, Verdict
from gateway.supervise.edge import Edge, EdgeSilent
from gateway.supervise.processes import kill_by_argument, queued_s
from gateway.supervise.triton_server import (
    leash,
    remove_shared_memory,
    scratch,
    served_tiers,
    serves_retrieval,
    shm_prefix,
    start_limit_s,
    triton_command,
)
from gateway.tensors import MODELS, Model, generate_model

STUB_WATCH_S = 0.1
BALANCER_NOTICES_S = 0.4  # Envoy asks every 0.25 s
DRAIN_LOOK_S = 0.1
# A stub that streams works for every token; one that waits wakes up now and then. Retrieval's gaps are far shorter.
QUIET_S, QUIET_WORK_S = 3.0, 0.02
UNLOAD_S = (
    2.5  # 2.1 s when all is well; after a cancelled stream Triton 2.51 may wait for its `reader` for ever
)

log = logging.getLogger("tidegate.guard")


def watched(settings: Settings) -> list[Model]:
    """Models with a process of their own."""
    models = [model for model in MODELS if not model.ensemble] if serves_retrieval(settings) else []
    return models + [generate_model(tier.name) for tier in served_tiers(settings)]


class Guard:
    """Life of one replica. `state`: starting, ready, suspect, dead, draining; only `ready` is in the balancer."""

    def __init__(self, settings: Settings, replica: int, assets: Assets) -> None:
        self.settings = settings
        self.replica = replica
        self.assets = assets
        self.state = "starting"
        self.reason = ""
        self.grpc_port, _, _, self.health_port = settings.triton_ports(replica)
        self.stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process
        self._stubs: dict[int, psutil.Process] = {}
        self._pulses: dict[str, Pulse] = {}
        self._lost_stub = ""  # why, once a stub is gone
        self._scratch = scratch(settings, replica)
        self._watched = watched(settings)

    async def run(self) -> int:
        """Until SIGTERM (returns 0) or the replica's death (returns 1)."""
        # Stubs outlive a killed Triton for a second or two.
        kill_by_argument(shm_prefix(self.settings, self.replica))
        remove_shared_memory(self.settings, self.replica)
        self._scratch.before_start()
        command = triton_command(self.settings, self.replica, self.assets)
        server = await asyncio.start_server(self._answer_health, self.settings.part_host, self.health_port)
        canary = Canary(f"127.0.0.1:{self.grpc_port}")
        self._process = await asyncio.create_subprocess_exec(
            *leash("KILL", command.argv), env=command.env, process_group=0
        )
        # Triton's own end, the order to stop, and the watch: whichever comes first.
        exited = asyncio.create_task(self._process.wait())
        stopped = asyncio.create_task(self.stopping.wait())
        watch = asyncio.create_task(self._watch(canary))
        try:
            await asyncio.wait({exited, stopped, watch}, return_when=asyncio.FIRST_COMPLETED)
            if self.stopping.is_set():
                watch.cancel()
                await self._drain(exited)
                return 0
            self._set(
                "dead", f"tritonserver exited with {exited.result()}" if exited.done() else watch.result()
            )
            await asyncio.sleep(0 if exited.done() else BALANCER_NOTICES_S)
            return 1
        finally:
            self._kill_group()
            for task in (exited, stopped, watch):
                task.cancel()
            await asyncio.gather(exited, stopped, watch, return_exceptions=True)
            await canary.close()
            server.close()
            self._scratch.look()
            self._scratch.remove()
            remove_shared_memory(self.settings, self.replica)

    def _set(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.state, self.reason):
            level = logging.WARNING if state in {"suspect", "dead"} else logging.INFO
            log.log(level, "replica %d is %s%s", self.replica, state, f": {reason}" if reason else "")
        self.state, self.reason = state, reason

    async def _watch(self, canary: Canary) -> str:
        """Returns the cause of death."""
        cause = await self._become_ready(canary)
        if cause:
            return cause
        now_s = time.monotonic()
        self._pulses = {model.name: Pulse(now_s, is_background=model.background) for model in self._watched}
        self._stubs = {child.pid: child for child in psutil.Process(self._process.pid).children()}
        self._set("ready")
        watchers = [asyncio.create_task(self._watch_stubs())]
        watchers += [asyncio.create_task(self._watch_model(canary, model)) for model in self._watched]
        try:
            return await self._judge(watchers)
        finally:
            for task in watchers:
                task.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _become_ready(self, canary: Canary) -> str:
        """Wait until the server is ready and every model has answered once (but those in the background, which may be
        kept waiting by other replicas' load). Returns why it never will, or ''."""
        needed = [model for model in self._watched if not model.background]
        limit_s = start_limit_s(self.settings)
        deadline_s = time.monotonic() + limit_s
        waiting_for = "the server"
        while time.monotonic() < deadline_s:
            self._scratch.look()
            if await canary.server_ready():
                answers = await asyncio.gather(*(canary.sing(model) for model in needed))
                failed = [
                    (m.name, text)
                    for m, (answer, text) in zip(needed, answers, strict=True)
                    if answer != "good"
                ]
                if not failed:
                    return ""
                waiting_for = f"model {failed[0][0]}: {failed[0][1]}"
                self._set("starting", waiting_for)
            await asyncio.sleep(0.1)
        return f"not ready after {limit_s:g} s, waiting for {waiting_for}"

    async def _watch_stubs(self) -> None:
        """A stub that is gone stays in the process table until Triton ends, as a zombie."""
        while True:
            for pid, stub in self._stubs.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if stub.status() != psutil.STATUS_ZOMBIE:
                        continue
                for pulse in self._pulses.values():
                    pulse.stub_died()
                self._lost_stub = f"model stub {pid} is gone"
                return
            await asyncio.sleep(STUB_WATCH_S)

    async def _watch_model(self, canary: Canary, model: Model) -> None:
        pulse = self._pulses[model.name]
        while True:
            answer, text = await canary.sing(model)
            pulse.answered(answer, time.monotonic())
            if answer is Answer.LATE:
                finished = await canary.finished()
                pulse.observed(finished.get(model.name, 0), self._stub_work_s(model), time.monotonic())
            elif answer is Answer.ERROR:
                log.warning("canary of model %s: %s", model.name, text)
            await asyncio.sleep(INTERVAL_S)

    def _stub_work_s(self, model: Model) -> float:
        """What a model's stubs have computed or stood in line to compute so far (seconds)."""
        total = 0.0
        for stub in self._stubs.values():
            with contextlib.suppress(psutil.Error):
                if any(f"/{model.name}/" in word for word in stub.cmdline()):
                    times = stub.cpu_times()
                    total += times.user + times.system + queued_s(stub.pid)
        return total

    async def _judge(self, watchers: list[asyncio.Task[None]]) -> str:
        """Follow the pulses until one says dead. Returns the cause; raises what a watcher raised."""
        while True:
            now_s = time.monotonic()
            verdicts = {name: pulse.verdict(now_s) for name, pulse in self._pulses.items()}
            sick = [name for name, verdict in verdicts.items() if verdict is not Verdict.WELL]
            if Verdict.DEAD in verdicts.values():
                return self._lost_stub or f"model {sick[0]} no longer answers"
            self._set("suspect" if sick else "ready", f"model {sick[0]} is silent" if sick else "")
            for task in watchers:
                if task.done():
                    task.result()
            await asyncio.sleep(STUB_WATCH_S)

    async def _drain(self, exited: asyncio.Task[int]) -> None:
        """Out of the balancer first, then open calls to their end (at most drain_s), then Triton's own end.

        Triton itself cannot be asked: it counts 0 requests in flight while a decoupled model still streams.
        """
        self._set("draining")
        deadline_s = time.monotonic() + self.settings.drain_s
        await asyncio.sleep(min(BALANCER_NOTICES_S, self.settings.drain_s))
        if self.settings.part_host in LOOPBACK:
            await self._wait_for_balancer(deadline_s)
        else:
            await self._wait_for_stubs(deadline_s)
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait({exited}, timeout=min(self.settings.drain_s, UNLOAD_S))

    async def _wait_for_balancer(self, deadline_s: float) -> None:
        """Until the balancer on this machine has no call open here."""
        edge = Edge(self.settings)
        with contextlib.suppress(EdgeSilent):  # no balancer, no calls
            while num_open := await asyncio.to_thread(edge.num_open_calls, self.grpc_port):
                self._set("draining", f"{num_open} calls are open")
                if time.monotonic() > deadline_s:
                    break
                await asyncio.sleep(DRAIN_LOOK_S)

    async def _wait_for_stubs(self, deadline_s: float) -> None:
        """Until no stub has worked for a while: the balancers run elsewhere and are many. Our own canaries have ended
        by now, so whatever works does so for a caller."""
        await asyncio.sleep(0)  # the watch has heard that it is cancelled
        worked_s, quiet_since_s = self._all_work_s(), time.monotonic()
        while (now_s := time.monotonic()) < deadline_s and now_s - quiet_since_s < QUIET_S:
            await asyncio.sleep(DRAIN_LOOK_S)
            work_s = self._all_work_s()
            if work_s - worked_s > QUIET_WORK_S:
                worked_s, quiet_since_s = work_s, time.monotonic()
                self._set("draining", "stubs are at work")

    def _all_work_s(self) -> float:
        return sum(self._stub_work_s(model) for model in self._watched)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    async def _answer_health(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Any request gets the state: 200 when ready, else 503. One answer a connection."""
        with contextlib.suppress(
            ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
        ):
            await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=5)
            told = {"replica": self.replica, "state": self.state, "reason": self.reason}
            body = json.dumps(told | {"version": self.settings.model_version}).encode()
            status = "200 OK" if self.state == "ready" else "503 Service Unavailable"
            head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            head += "connection: close\r\n\r\n"
            writer.write(head.encode() + body)
            await writer.drain()
        writer.close()


async def guard(settings: Settings, replica: int, assets: Assets) -> int:
    watcher = Guard(settings, replica, assets)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, watcher.stopping.set)
    return await watcher.run()


def main(argv: list[str] | None = None) -> int:
    args = sys.argv[1:] if argv is None else argv
    settings = load_settings()
    replica = int(args[0])
    set_up_logging(settings, f"triton-{replica}", sys.stdout)
    return asyncio.run(guard(settings, replica, find_assets()))


if __name__ == "__main__":
    sys.exit(main())
