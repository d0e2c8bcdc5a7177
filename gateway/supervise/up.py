"""`tidegate up`: from settings to a running service, and back to nothing.

Prepare (checks, lock, prepare.py), start supervisord, wait until ready, ingest the samples once, then watch until
told to stop. Whatever way this process or supervisord ends, everything else ends too: each is leashed to its parent,
and orphans are adopted and killed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from gateway.cli.client import Target
from gateway.settings import Settings
from gateway.supervise import render, watching
from gateway.supervise.assets import Assets, find_assets
from gateway.supervise.edge import Edge, EdgeSilent
from gateway.supervise.instance import InstanceLock, write_instance
from gateway.supervise.preflight import run_checks
from gateway.supervise.prepare import PRIVATE, PreparationFailed, cannot_write, prepare, with_absolute_paths
from gateway.supervise.processes import adopt_orphans, descendants, kill_all, raise_file_limit, reap_orphans
from gateway.supervise.readiness import StartFailed, Supervisor, wait_until_ready
from gateway.supervise.samples import SamplesFailed, ingest_samples
from gateway.supervise.signals import StopSignals
from gateway.supervise.triton_server import leash, remove_leftovers

Echo = Callable[[str], None]
OK, FAILED, REFUSED = 0, 1, 2
STOP_MARGIN_S = 30.0  # beyond the drain, for the parts to end one after the other
LOOK_S = 0.5
STOP_LOOK_S = 0.1
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}


def say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody reads any more; the service is none the worse
        print(line, flush=True)


def run_up(settings: Settings, echo: Echo = say) -> int:
    """Run the service until SIGINT or SIGTERM.

    Returns 0 after an ordered end, 1 when a part failed, 2 when something must be changed before a start.
    """
    os.umask(PRIVATE)  # children inherit it
    try:
        settings = with_absolute_paths(settings)
        problems = [check for check in run_checks(settings) if not check.ok]
        for check in problems:
            echo(check.sentence())
        if problems:
            return REFUSED
        return _run_alone(settings, echo)
    except PreparationFailed as error:
        echo(str(error))
        return REFUSED
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        echo(str(cannot_write(settings, error)))
        return FAILED


def _run_alone(settings: Settings, echo: Echo) -> int:
    lock = InstanceLock(settings)
    if not lock.acquire():
        echo(
            f"Another instance runs in {settings.var}: stop it, or set TIDEGATE_VAR and TIDEGATE_PORT for a second one."
        )
        return REFUSED
    try:
        with StopSignals() as signals:
            return Up(settings, find_assets(), echo, signals).run()
    finally:
        lock.release()


class Up:
    def __init__(self, settings: Settings, assets: Assets, echo: Echo, signals: StopSignals) -> None:
        self.settings = settings
        self.assets = assets
        self.echo = echo
        self.signals = signals
        self.edge = Edge(settings)
        self._supervisord: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        adopt_orphans()
        raise_file_limit()
        try:
            return self._run()
        finally:
            self._stop()

    def _run(self) -> int:
        started_s = time.monotonic()
        try:
            dev_key, password = prepare(self.settings, self.assets, self._tell_unless_over)
            if self._is_over():
                return self._ended()
            if self.settings.watch and (absent := watching.missing()):
                self.echo(absent)
            self._start()
            supervisor = Supervisor(self.settings, password)
            if not wait_until_ready(self.settings, supervisor, self.echo, self._is_over):
                return self._ended()
            write_instance(self.settings)
            self._first_start(dev_key)
            if self._is_over():
                return self._ended()
            self._greet(dev_key, time.monotonic() - started_s)
        except (StartFailed, PreparationFailed) as error:
            if self.signals.count:
                return self._ended()
            self.echo(str(error))
            return FAILED
        while not self._is_over():
            self.signals.wait(LOOK_S)
            self.edge.rotate_access_log()
        return self._ended()

    def _tell(self, line: str) -> None:
        self.echo(f"  {line}")

    def _tell_unless_over(self, line: str) -> None:
        """A conversion may take minutes and ends with whoever tells of it. Raises: PreparationFailed."""
        if self._is_over():
            raise PreparationFailed("told to stop")
        self._tell(line)

    def _is_over(self) -> bool:
        if self._supervisord is not None:
            reap_orphans(keep=self._supervisord.pid)
            if self._supervisord.poll() is not None:
                return True
        return self.signals.count > 0

    def _ended(self) -> int:
        if self.signals.count:
            self.echo(f"Stopping ({self.signals.last}).")
            return OK
        self.echo("The process manager ended unexpectedly; everything is being stopped.")
        return FAILED

    # During

    def _start(self) -> None:
        config = self.settings.run_dir / "supervisord.conf"
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)]
        with (self.settings.log_dir / "supervisord.out").open("wb") as output:
            self._supervisord = subprocess.Popen(
                leash("TERM", command),
                env=render.child_environment(self.settings),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: the parts stop in order
            )

    def _first_start(self, dev_key: str) -> None:
        """Ingest the samples, once in the life of a var folder."""
        marker = self.settings.var / "samples-ingested"
        if marker.exists() or not self.assets.documents:
            return
        self.echo("First start: ingesting the sample collection (tidegate's own documentation).")
        try:
            target = Target(self._base_url(), dev_key, is_direct=True)
            collection = ingest_samples(target, self.assets.documents, self._tell, self._is_over)
        except SamplesFailed as error:
            self.echo(f"  Not done: {error}. The service runs; the next start tries again.")
            return
        if collection:
            marker.write_text(collection + "\n")

    def _base_url(self) -> str:
        host = self.settings.host
        if host in {"localhost", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
            host = "127.0.0.1"
        return (
            f"http://[{host}]:{self.settings.port}" if ":" in host else f"http://{host}:{self.settings.port}"
        )

    def _greet(self, dev_key: str, took_s: float) -> None:
        url = self._base_url()
        body = '{"model": "auto", "stream": true, "messages": [{"role": "user", "content": "What is tidegate?"}]}'
        self.echo(
            f"""
tidegate is ready after {took_s:.1f} s.

  Page  {url}/
  Key   {dev_key}{self._watch_lines()}

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {dev_key}' \\
       -H 'Content-Type: application/json' -d '{body}'

Ctrl-C stops it; open answers may finish."""
        )

    def _watch_lines(self) -> str:
        if not watching.is_watched(self.settings):
            return ""
        prometheus, alertmanager = self.settings.prometheus_port, self.settings.alertmanager_port
        return f"\n  Watch http://127.0.0.1:{prometheus}/alerts and http://127.0.0.1:{alertmanager}/"

    # After

    def _stop(self) -> None:
        """In order when supervisord still lives, then by force whatever is left; no file of the run remains."""
        from gateway.supervise.snapshot import note_snapshot

        manager = self._supervisord
        if manager is not None and manager.poll() is None:
            self._drain()
            self._stop_manager(manager)
        left = kill_all(descendants())
        if manager is not None:
            manager.wait()
        reap_orphans(keep=0)
        note_snapshot(self.settings)
        remove_leftovers(self.settings)
        for name in (*RUN_FILES, *(f"{name}.yaml" for name in render.envoy_names(self.settings))):
            (self.settings.run_dir / name).unlink(missing_ok=True)
        if left:
            self.echo(f"These processes could not be ended: {left}.")
        elif manager is not None:
            self.echo("Stopped.")

    def _drain(self) -> None:
        """Close the public listener, tell connections to end, and let open requests finish."""
        deadline_s = time.monotonic() + self.settings.drain_s
        told = False
        with contextlib.suppress(EdgeSilent):
            self.edge.drain()
            while num_open := self.edge.num_open_requests():
                if time.monotonic() > deadline_s or self.signals.count > 1:
                    return
                if not told:
                    self.echo(
                        f"Waiting for {num_open} open requests, at most {self.settings.drain_s:g} s; Ctrl-C ends them."
                    )
                    told = True
                self.signals.wait(STOP_LOOK_S)

    def _stop_manager(self, manager: subprocess.Popen[bytes]) -> None:
        """supervisord stops its programs in the order ingest, gateway, envoy, triton, redis."""
        if self.signals.count < 2:
            manager.terminate()
        deadline_s = time.monotonic() + 2 * self.settings.drain_s + STOP_MARGIN_S
        while manager.poll() is None and self.signals.count < 2 and time.monotonic() < deadline_s:
            reap_orphans(keep=manager.pid)
            self.signals.wait(STOP_LOOK_S)
            self._nudge_manager()

    def _nudge_manager(self) -> None:
        """supervisord looks at its children once a second, and whenever somebody connects to it."""
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.settings.supervisor_port), timeout=0.2).close()


RUN_FILES = (
    *("instance.json", "supervisord.pid", "supervisord.conf", "redis.conf"),
    *("prometheus.yml", "alertmanager.yml", "ingest.turn"),
)
