"""One Envoy in a container of its own: its configuration, and an end that cuts nobody off.

Envoy leaves at once when it is told to stop. So its parent is what gets the signal: it closes the listener, waits for
the open requests, and then lets Envoy go.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

from gateway.settings import Settings
from gateway.supervise import render
from gateway.supervise.assets import find_assets
from gateway.supervise.credentials import write_private
from gateway.supervise.edge import Edge, EdgeSilent
from gateway.supervise.processes import raise_file_limit
from gateway.supervise.signals import StopSignals
from gateway.supervise.triton_server import leash

LOOK_S = 0.5
DRAIN_LOOK_S = 0.1
END_S = 5.0


def run_envoy(settings: Settings, role: render.Role) -> int:
    """Run Envoy until it ends by itself (returns 1) or we are told to stop (returns 0).

    role `edge` drains for TIDEGATE_DRAIN_S at most; a `balancer` goes at once: it stops after those that it serves.
    """
    raise_file_limit()
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    config = settings.run_dir / f"{role}.yaml"
    write_private(config, render.render_envoy(settings, find_assets(), role=role))
    with StopSignals() as signals:
        envoy = subprocess.Popen(
            leash("KILL", render.envoy_command(settings, config, role)),
            env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us
        )
        try:
            while not signals.count and envoy.poll() is None:
                signals.wait(LOOK_S)
            if envoy.poll() is not None:
                return 1
            if role == "edge":
                _drain(settings, signals)
            return 0
        finally:
            envoy.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                envoy.wait(END_S)
            envoy.kill()
            envoy.wait()


def _drain(settings: Settings, signals: StopSignals) -> None:
    """Refuse connections, tell the open ones to end, wait for their requests; a second signal ends the wait."""
    edge, deadline_s = Edge(settings), time.monotonic() + settings.drain_s
    with contextlib.suppress(EdgeSilent):
        edge.drain()
        while edge.num_open_requests() and time.monotonic() < deadline_s and signals.count < 2:
            signals.wait(DRAIN_LOOK_S)
