"""What all commands share: exit codes, their one error, common options, and text that is safe to print.

Refuses to know HTTP and the service.
"""

from __future__ import annotations

import enum
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.settings import Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 400  # columns when nobody looks: a table row is then one line


PLAIN_EVERY_S = 5.0  # between two lines of progress where there is no terminal


class ExitCode(enum.IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    INTERRUPTED = 130


class CommandFailed(Exception):
    """The command cannot go on. The text is one or two plain sentences, fit to print."""

    def __init__(self, message: str, exit_code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = int(exit_code)


VarOption = Annotated[
    Path | None,
    typer.Option(
        "--var", metavar="FOLDER", help="State folder of the service (default: TIDEGATE_VAR, else ./var)."
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Service to talk to (default: the one running here, else TIDEGATE_PORT)."
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="KEY",
        help="API key (default: TG_API_KEY in the environment, else the local development key).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
CollectionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        "-c",
        metavar="NAME",
        help="Collection, by name or id; repeatable (default: all of yours).",
    ),
]


def settings_of(var: Path | None, **explicit: Any) -> Settings:
    """The settings with a command's own options on top. Raises: SettingsError."""
    return load_settings(var=var, **explicit)


def console(*, stderr: bool = False) -> Console:
    """A console that styles only for a terminal that wants it (NO_COLOR, TERM=dumb, pipes: plain text).

    FORCE_COLOR changes nothing about a pipe: what reads it would get control codes for text.
    """
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    is_terminal = stream.isatty()
    width = None if is_terminal else PIPED_WIDTH
    options: dict[str, Any] = {"color_system": None} if os.environ.get("NO_COLOR") else {}
    return Console(
        file=stream,
        force_terminal=is_terminal,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        **options,
    )


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, right: Iterable[str] = ()) -> None:
    """Columns without borders; those named in `right` are right-aligned. Cells are made safe to print."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in set(right) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out = console()
    with out.capture() as captured:
        out.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def printable(text: str) -> str:
    """The text without control characters: a document must not steer the reader's terminal."""
    if text.isprintable():
        return text
    return "".join(char for char in text if char in "\n\t" or not _steers(ord(char)))


def _steers(code: int) -> bool:
    # C0, DEL, C1, and the marks that reverse the reading direction
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


class PlainProgress:
    """Where there is no terminal: a line on standard error every PLAIN_EVERY_S seconds, and none for what is quick."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._told = clock, clock()

    def tell(self, line: str) -> None:
        if self._clock() - self._told >= PLAIN_EVERY_S:
            self._told = self._clock()
            typer.echo(line, err=True)
