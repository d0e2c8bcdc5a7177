"""`tidegate run` and `tidegate migrate`: one part in the foreground, for containers that hold one part each."""

from __future__ import annotations

import enum
import errno
from typing import Annotated

import typer

from gateway.cli.terminal import CommandFailed, ExitCode, VarOption, settings_of
from gateway.settings import Settings

_RUN_EPILOG = """\b
Examples:
  tidegate run gateway
  TIDEGATE_TRITON_SERVES=retrieval tidegate run triton

\b
Parts:
  gateway    one gateway worker
  ingest     one ingest worker
  triton     one Triton with its guard; what it loads: TIDEGATE_TRITON_SERVES
  edge       Envoy in front of the workers of TIDEGATE_GATEWAY_HOST
  balancer   Envoy in front of the Tritons of TIDEGATE_TRITON_HOSTS, on loopback beside whoever calls them

\b
Each takes its settings from the environment, stops on SIGTERM when what is open has finished (TIDEGATE_DRAIN_S at
most), and prepares nothing: `tidegate migrate` makes the tables first. On one machine `tidegate up` starts
everything. Exit codes: 0 stopped as asked, 1 it died, 2 a setting is wrong."""

_MIGRATE_EPILOG = """\b
Examples:
  TIDEGATE_DATABASE_URL=postgresql://… tidegate migrate

\b
Several may run at once; one does the work. Exit codes: 0 the tables are as this version wants them, 1 not."""


class Part(enum.StrEnum):
    GATEWAY = "gateway"
    INGEST = "ingest"
    TRITON = "triton"
    EDGE = "edge"
    BALANCER = "balancer"


def register(app: typer.Typer) -> None:
    app.command(epilog=_RUN_EPILOG)(run)
    app.command(epilog=_MIGRATE_EPILOG)(migrate)


def run(part: Annotated[Part, typer.Argument(help="Which part.")]) -> None:
    """Run one part of the service in the foreground."""
    settings = settings_of(None)
    _check(part, settings)
    for folder in (settings.run_dir, settings.log_dir, settings.files_dir):
        folder.mkdir(parents=True, exist_ok=True)
    from gateway.supervise.binaries import BinaryMissing

    try:
        code = _run(part, settings)
    except BinaryMissing as missing:
        raise CommandFailed(str(missing), ExitCode.USAGE) from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise CommandFailed(
            f"A port of the {part} is taken by another process: set TIDEGATE_PORT to another one.",
            ExitCode.USAGE,
        ) from None
    raise typer.Exit(code)


def _check(part: Part, settings: Settings) -> None:
    """Raises: CommandFailed when the part would have nobody to pass requests on to."""
    needed = {Part.EDGE: "gateway_host", Part.BALANCER: "triton_hosts"}.get(part, "")
    if needed and not getattr(settings, needed):
        raise CommandFailed(
            f"TIDEGATE_{needed.upper()} is not set: say where the {part} sends requests.", ExitCode.USAGE
        )


def _run(part: Part, settings: Settings) -> int:
    match part:
        case Part.GATEWAY:
            from gateway import app

            return app.main(["0"])
        case Part.INGEST:
            from gateway import ingest_app

            return ingest_app.main()
        case Part.TRITON:
            from gateway.supervise import guard

            return guard.main(["0"])
        case Part.EDGE | Part.BALANCER:
            from gateway.supervise.envoy_process import run_envoy

            return run_envoy(settings, "edge" if part is Part.EDGE else "balancer")


def migrate(var: VarOption = None) -> None:
    """Bring the database's tables to this version, and end."""
    from gateway.errors import TidegateError
    from gateway.storage.database import Database

    database = Database(settings_of(var).sql_url)
    try:
        database.migrate()
    except TidegateError as error:
        detail = error.detail.partition("\n")[0]
        raise CommandFailed(
            f"{error.message} ({detail}) See TIDEGATE_DATABASE_URL." if detail else error.message
        ) from None
    finally:
        database.close()
