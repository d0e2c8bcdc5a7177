"""`tidegate up`: from settings to a running service, and back to nothing.

Prepare (checks, lock, secrets, model, database, configuration), start supervisord, wait until ready, ingest the
samples once, then watch until told to stop. Whatever way this process or supervisord ends, everything else ends too:
each is leashed to its parent, and orphans are adopted and killed.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

import httpx

from gateway.settings import Settings
from gateway.supervise import credentials, render
from gateway.supervise.assets import Assets, find_assets
from gateway.supervise.instance import InstanceLock, write_instance
from gateway.supervise.preflight import run_checks
from gateway.supervise.processes import adopt_orphans, descendants, kill_all, raise_file_limit, reap_orphans
from gateway.supervise.readiness import StartFailed, Supervisor, wait_until_ready
from gateway.supervise.samples import SamplesFailed, ingest_samples
from gateway.supervise.triton_server import leash, prepare_backends, remove_shared_memory

Echo = Callable[[str], None]
OK, FAILED, REFUSED = 0, 1, 2
ACCESS_LOG_BYTES = 64 * 2**20
STOP_MARGIN_S = 30.0  # beyond the drain, for the parts to end one after the other


def say(line: str) -> None:
    print(line, flush=True)


def run_up(settings: Settings, echo: Echo = say) -> int:
    """Run the service until SIGINT or SIGTERM.

    Returns 0 after an ordered end, 1 when a part failed, 2 when something must be changed before a start.
    """
    problems = [check for check in run_checks(settings) if not check.ok]
    for check in problems:
        echo(check.sentence())
    if problems:
        return REFUSED
    lock = InstanceLock(settings)
    if not lock.acquire():
        echo(
            f"Another instance runs in {settings.var}: stop it, or set TIDEGATE_VAR and TIDEGATE_PORT for a second one."
        )
        return REFUSED
    try:
        return Up(settings, find_assets(), echo).run()
    finally:
        lock.release()


class Up:
    def __init__(self, settings: Settings, assets: Assets, echo: Echo) -> None:
        self.settings = settings
        self.assets = assets
        self.echo = echo
        self.num_signals = 0
        self._last_signal = ""
        self._supervisord: subprocess.Popen[bytes] | None = None
        self._wake = threading.Event()

    def run(self) -> int:
        previous = [(number, signal.signal(number, self._on_signal)) for number in STOP_SIGNALS]
        adopt_orphans()
        raise_file_limit()
        try:
            return self._run()
        finally:
            self._stop()
            for number, handler in previous:
                signal.signal(number, handler)

    def _run(self) -> int:
        started_s = time.monotonic()
        try:
            dev_key, password = self._prepare()
            if self._is_over():
                return self._ended()
            self._start()
            supervisor = Supervisor(self.settings, password)
            if not wait_until_ready(self.settings, supervisor, self.echo, self._is_over):
                return self._ended()
            write_instance(self.settings)
            self._first_start(dev_key)
            self._greet(dev_key, time.monotonic() - started_s)
        except (StartFailed, PreparationFailed) as error:
            self.echo(str(error))
            return FAILED
        while not self._is_over():
            self._wake.wait(0.5)
            self._rotate_access_log()
        return self._ended()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.num_signals += 1
        self._last_signal = signal.Signals(number).name
        self._wake.set()

    def _is_over(self) -> bool:
        if self._supervisord is not None:
            reap_orphans(keep=self._supervisord.pid)
            if self._supervisord.poll() is not None:
                return True
        return self.num_signals > 0

    def _ended(self) -> int:
        if self.num_signals:
            self.echo(f"Stopping ({self._last_signal}).")
            return OK
        self.echo("The process manager ended unexpectedly; everything is being stopped.")
        return FAILED

    # Before

    def _prepare(self) -> tuple[str, str]:
        """Everything on disk. Returns the development key and supervisord's password.

        Raises: PreparationFailed.
        """
        from gateway.embedding.export import EmbedderUnavailable, prepare_embedder
        from gateway.errors import TidegateError

        settings = self.settings
        for folder in (settings.run_dir, settings.log_dir, settings.files_dir, settings.var / "redis"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            prepare_backends(settings)
            prepare_embedder(settings.models_dir, lambda text: self.echo(f"  {text}"))
            dev_key = self._prepare_database()
        except EmbedderUnavailable as error:
            raise PreparationFailed(str(error)) from error
        except TidegateError as error:
            raise PreparationFailed(
                f"The database cannot be used: {error.message} {error.detail}".strip()
            ) from error
        password = self._write_configuration()
        return dev_key, password

    def _prepare_database(self) -> str:
        """Tables up to date, the development key known. Returns the key."""
        from gateway.storage.database import Database
        from gateway.storage.keys import DEFAULT_TENANT, create_key

        dev_key = credentials.secret(self.settings, credentials.DEV_KEY)
        database = Database(self.settings.sql_url)
        try:
            database.migrate()
            with database.write() as conn:
                create_key(conn, tenant=DEFAULT_TENANT, name="development", key=dev_key)
        finally:
            database.close()
        return dev_key

    def _write_configuration(self) -> str:
        settings = self.settings
        password = credentials.secret(settings, "supervisor")
        files = {
            "envoy.yaml": render.render_envoy(settings, self.assets),
            "redis.conf": render.render_redis(settings, credentials.secret(settings, "redis")),
            "supervisord.conf": render.render_supervisor(settings, password),
        }
        for name, text in files.items():
            credentials.write_private(settings.run_dir / name, text)
        return password

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
            collection = ingest_samples(
                self._base_url(), dev_key, self.assets.documents, lambda text: self.echo(f"  {text}")
            )
        except SamplesFailed as error:
            self.echo(f"  Not done: {error}. The service runs; the next start tries again.")
            return
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
  Key   {dev_key}

  curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {dev_key}' \\
       -H 'Content-Type: application/json' -d '{body}'

Ctrl-C stops it; open answers may finish."""
        )

    def _rotate_access_log(self) -> None:
        """Envoy appends for ever by itself: keep one older file."""
        log = self.settings.log_dir / "envoy-access.log"
        with contextlib.suppress(OSError, httpx.HTTPError):
            if log.stat().st_size > ACCESS_LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
                self._tell_envoy("/reopen_logs")

    def _tell_envoy(self, path: str) -> None:
        httpx.post(f"http://127.0.0.1:{self.settings.envoy_admin_port}{path}", timeout=2).raise_for_status()

    # After

    def _stop(self) -> None:
        """In order when supervisord still lives, then by force whatever is left; no file of the run remains."""
        manager = self._supervisord
        if manager is not None and manager.poll() is None:
            self._drain()
            self._stop_manager(manager)
        left = kill_all(descendants())
        if manager is not None:
            manager.wait()
        reap_orphans(keep=0)
        for replica in range(self.settings.triton_replicas):
            remove_shared_memory(self.settings, replica)
        for name in RUN_FILES:
            (self.settings.run_dir / name).unlink(missing_ok=True)
        if left:
            self.echo(f"These processes could not be ended: {left}.")
        elif manager is not None:
            self.echo("Stopped.")

    def _drain(self) -> None:
        """Close the public listener, tell connections to end, and let open requests finish."""
        deadline_s = time.monotonic() + self.settings.drain_s
        with contextlib.suppress(httpx.HTTPError, ValueError):
            self._tell_envoy("/healthcheck/fail")
            self._tell_envoy("/drain_listeners?inboundonly")
            told = False
            while (
                (num_open := self._open_requests()) and time.monotonic() < deadline_s and self.num_signals < 2
            ):
                if not told:
                    self.echo(
                        f"Waiting for {num_open} open requests, at most {self.settings.drain_s:g} s; Ctrl-C ends them."
                    )
                    told = True
                time.sleep(0.1)

    def _open_requests(self) -> int:
        stats = f"http://127.0.0.1:{self.settings.envoy_admin_port}/stats"
        text = httpx.get(stats, params={"filter": r"^http\.edge\.downstream_rq_active$"}, timeout=2).text
        return int(text.rpartition(":")[2])

    def _stop_manager(self, manager: subprocess.Popen[bytes]) -> None:
        """supervisord stops its programs in the order ingest, gateway, envoy, triton, redis."""
        if self.num_signals < 2:
            manager.terminate()
        deadline_s = time.monotonic() + 2 * self.settings.drain_s + STOP_MARGIN_S
        while manager.poll() is None and self.num_signals < 2 and time.monotonic() < deadline_s:
            reap_orphans(keep=manager.pid)
            time.sleep(0.05)


class PreparationFailed(RuntimeError):
    """The text is one sentence, fit to print."""


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RUN_FILES = ("instance.json", "supervisord.pid", "supervisord.conf", "redis.conf", "envoy.yaml")
