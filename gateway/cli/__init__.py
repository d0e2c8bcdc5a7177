"""The `tidegate` command line: assembly and the process edge.

Command modules import only typer and the settings when they load; httpx, rich and SQL come in with the command
that needs them, so `tidegate --help` answers at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from gateway import __version__
from gateway.cli import (
    ask,
    cache,
    collections,
    engine,
    evaluate,
    ingest,
    keys,
    ladder,
    limits,
    plan,
    run,
    search,
    service,
)
from gateway.cli.terminal import CommandFailed, ExitCode
from gateway.settings import SettingsError

_EPILOG = """\b
Examples:
  tidegate up                         start the whole service here
  tidegate ingest docs/               add a folder of documents
  tidegate ask "How do I start it?"   ask, and see the sources

\b
Every setting is also TIDEGATE_<NAME> in the environment: `tidegate settings` lists them.
Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 3 no service answers, 130 stopped by Ctrl-C."""


class _Edge:
    """What the outermost error handler must know of the command line."""

    debug = False


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"tidegate {__version__}")
        raise typer.Exit


def build_app(edge: _Edge | None = None) -> typer.Typer:
    edge = edge or _Edge()
    app = typer.Typer(
        name="tidegate",
        help="Chat with your documents: run the service, fill it, ask it.",
        epilog=_EPILOG,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,  # rich's help takes 0.3 s to import
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )

    @app.callback()
    def options(
        debug: Annotated[
            bool, typer.Option("--debug", help="Print the traceback of an unexpected error.")
        ] = False,
        version: Annotated[
            bool,
            typer.Option(
                "--version", help="Print the version and exit.", callback=_show_version, is_eager=True
            ),
        ] = False,
    ) -> None:
        edge.debug = debug

    for module in (
        service, run, ingest, ask, search, collections, evaluate, keys, limits, ladder, cache, plan, engine
    ):  # fmt: skip
        module.register(app)
    return app


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command line and exit with its code. The process edge: no traceback leaves it unasked."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a test's capture is not a TextIOWrapper
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    edge = _Edge()
    try:
        build_app(edge)(args, prog_name="tidegate")
    except CommandFailed as error:
        _leave(str(error), error.exit_code)
    except SettingsError as error:
        _leave(str(error), ExitCode.USAGE)
    except Exception as error:
        if edge.debug:
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0]
        _leave(
            f"Unexpected error ({text}); `tidegate --debug {_command(args)}` prints more.", ExitCode.FAILED
        )
    raise SystemExit(0)


def _command(args: Sequence[str] | None) -> str:
    return next((word for word in (sys.argv[1:] if args is None else args) if not word.startswith("-")), "…")


def _leave(message: str, code: int) -> NoReturn:
    try:
        print(f"tidegate: {message}", file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # else the interpreter complains again when it flushes
    raise SystemExit(code)
