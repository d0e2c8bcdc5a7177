"""`tidegate ladder`: what the service gives up under load right now, and an operator's orders about it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    KeyOption,
    UrlOption,
    VarOption,
    print_json,
    print_table,
    printable,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.cli.client import Target

PATH = "/admin/ladder"

_EPILOG = """\b
Examples:
  tidegate ladder                          how far down each line is
  tidegate ladder --pin fewer_passages     in force until the next order, whatever the load
  tidegate ladder --forbid refuse          never taken
  tidegate ladder --clear                  leave it to the load again

\b
Orders replace the ones before, hold for all workers at once, and need an admin key."""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(ladder)


def ladder(
    *,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="STEP", help="Keep this step in force; repeatable.")
    ] = None,
    forbid: Annotated[
        list[str] | None, typer.Option("--forbid", metavar="STEP", help="Never take this step; repeatable.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Withdraw all orders.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """Show the steps that are taken under load, or order them."""
    from gateway.cli.client import resolve_target

    if clear and (pin or forbid):
        raise CommandFailed("--clear withdraws all orders; give it alone.", ExitCode.USAGE)
    orders = {"pinned": pin or [], "forbidden": forbid or []} if clear or pin or forbid else None
    shown = asyncio.run(_ladder(resolve_target(settings_of(var), url, key), orders))
    if as_json:
        print_json(shown)
    else:
        _print(shown)


async def _ladder(target: Target, orders: dict[str, list[str]] | None) -> dict[str, Any]:
    from gateway.cli.client import Api

    async with Api(target) as api:
        answer = await api.get(PATH) if orders is None else await api.call("PUT", PATH, json=orders)
    if not isinstance(answer, dict):
        raise CommandFailed(f"{target.url} is not a tidegate: it answered {PATH} with something else.")
    return answer


def _print(shown: dict[str, Any]) -> None:
    for name, steps in (("pinned", shown.get("pinned")), ("forbidden", shown.get("forbidden"))):
        print(f"{name}: {_words(steps)}")
    print_table(
        ("tier", "priority", "pressure", "given up"), map(_row, shown.get("lines", [])), right=("pressure",)
    )


def _row(line: dict[str, Any]) -> tuple[str, ...]:
    return (
        printable(str(line.get("tier", ""))),
        printable(str(line.get("band", ""))),
        f"{float(line.get('pressure') or 0):.2f}",
        _words(line.get("in_force")),
    )


def _words(steps: list[Any] | None) -> str:
    return ", ".join(printable(str(step)) for step in steps or []) or "nothing"
