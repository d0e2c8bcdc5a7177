"""`tidegate up`, `doctor`, `settings`, `models`: the service itself, its machine and its settings."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli import status
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
from gateway.settings import PREFIX, Settings, load_settings

if TYPE_CHECKING:
    from gateway.cli.client import Target

_UP_EPILOG = """\b
Examples:
  tidegate up                                      everything here, on port 8080
  tidegate up --port 9080 --var /srv/tidegate-b    a second service beside it
  TIDEGATE_QUEUE_MAX=64 tidegate up                any other setting

\b
Runs until Ctrl-C or SIGTERM, which let open requests finish. Exit codes: 0 stopped as asked, 1 could not
start or broke, 2 a setting is wrong or a port is taken."""

_DOCTOR_EPILOG = """\b
Examples:
  tidegate doctor
  TIDEGATE_PORT=9080 tidegate doctor

\b
Exit codes: 0 ready to start, 1 something is to be fixed."""

_SETTINGS_EPILOG = """\b
Examples:
  tidegate settings
  TIDEGATE_PORT=9080 tidegate settings
  tidegate settings --markdown > docs/settings.md"""

_MODELS_EPILOG = """\b
Examples:
  tidegate models
  tidegate models --json | jq -r '.[].id'"""

_DOCS_HEAD = """\
# Settings

Every setting is an environment variable; `tidegate settings` shows them with the values in force, and the
common ones are options of `tidegate up`. An unknown `TIDEGATE_` name or a bad value stops the start with one
sentence. This page is made by `tidegate settings --markdown`.
"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_UP_EPILOG)(up)
    status.register(app)
    app.command(epilog=_DOCTOR_EPILOG)(doctor)
    app.command(name="settings", epilog=_SETTINGS_EPILOG)(show_settings)
    app.command(epilog=_MODELS_EPILOG)(models)


def up(
    *,
    port: Annotated[
        int | None, typer.Option("--port", metavar="N", help="Public port (TIDEGATE_PORT); others follow it.")
    ] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on (TIDEGATE_HOST).")
    ] = None,
    auth: Annotated[
        str | None,
        typer.Option("--auth", metavar="MODE", help="development or required (TIDEGATE_AUTH)."),
    ] = None,
    triton_replicas: Annotated[
        int | None,
        typer.Option("--triton-replicas", metavar="N", help="Triton processes (TIDEGATE_TRITON_REPLICAS)."),
    ] = None,
    gateway_workers: Annotated[
        int | None,
        typer.Option("--gateway-workers", metavar="N", help="Gateway processes (TIDEGATE_GATEWAY_WORKERS)."),
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(
            "--log-level", metavar="LEVEL", help="debug, info, warning or error (TIDEGATE_LOG_LEVEL)."
        ),
    ] = None,
    var: VarOption = None,
) -> None:
    """Start the whole service on this machine and keep it running."""
    settings = settings_of(
        var,
        port=port,
        host=host,
        auth=auth,
        triton_replicas=triton_replicas,
        gateway_workers=gateway_workers,
        log_level=log_level,
    )
    from gateway.supervise.up import run_up

    raise typer.Exit(run_up(settings))


def doctor(var: VarOption = None) -> None:
    """Check what this machine lacks for the service. Each failure comes with its fix."""
    settings = settings_of(var)
    from gateway.supervise.preflight import run_checks

    checks = run_checks(settings)
    for check in checks:
        print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {printable(check.detail)}")
        if not check.ok and check.fix:
            print(f"      fix: {printable(check.fix)}")
    if not all(check.ok for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def show_settings(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print docs/settings.md: defaults, no values.")
    ] = False,
    as_json: JsonOption = False,
    var: VarOption = None,
) -> None:
    """List every setting: default, value in force, what it does."""
    if markdown:
        print(settings_markdown(), end="")
        return
    settings = load_settings(var=var)
    rows = settings_rows(settings)
    if as_json:
        names = ("name", "default", "value", "allowed", "help")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
        return
    print_table(
        ("setting", "default", "value", "what it does"),
        ((name, default, value, about) for name, default, value, _, about in rows),
    )


def settings_rows(settings: Settings) -> list[tuple[str, str, str, str, str]]:
    """(name, default, value, allowed, help) of each setting. A secret's value is never told, only that it is set."""
    rows = []
    for spec in fields(Settings):
        value = getattr(settings, spec.name)
        shown = ("***" if value else "") if spec.metadata["secret"] else str(value)
        rows.append(
            (
                PREFIX + spec.name.upper(),
                str(spec.default),
                shown,
                allowed(spec.metadata),
                str(spec.metadata["help"]),
            )
        )
    return rows


def allowed(meta: Any) -> str:
    """The values that a setting takes, in words; empty when the help says all."""
    low, high = meta["minimum"], meta["maximum"]
    if meta["choices"]:
        return ", ".join(meta["choices"])
    if low is not None and high is not None:
        return f"{low} to {high}"
    return f"at least {low}" if low is not None else ""


def settings_markdown() -> str:
    """The whole of docs/settings.md. Depends on the settings' table alone, not on the environment."""
    lines = [_DOCS_HEAD, "| name | default | allowed | what it does |", "| --- | --- | --- | --- |"]
    for name, default, _, values, about in settings_rows(load_settings({})):
        cells = (f"`{name}`", f"`{default}`" if default else "", values, about)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def models(
    as_json: JsonOption = False, url: UrlOption = None, key: KeyOption = None, var: VarOption = None
) -> None:
    """List the models. `auto` chooses among the tiers; each tier answers; one model embeds."""
    from gateway.cli.client import resolve_target

    found = asyncio.run(_models(resolve_target(settings_of(var), url, key)))
    if as_json:
        print_json(found)
        return
    rows = [(str(model.get("id")), model.get("tidegate") or {}) for model in found]
    print_table(
        ("model", "kind", "slots", "what it is"),
        (
            (name, str(about.get("kind", "")), str(about.get("slots", "")), str(about.get("description", "")))
            for name, about in rows
        ),
        right=("slots",),
    )


async def _models(target: Target) -> list[dict[str, Any]]:
    from gateway.cli.client import Api

    async with Api(target) as api:
        page = await api.get("/v1/models")
    if not isinstance(page, dict) or not isinstance(page.get("data"), list):
        raise CommandFailed(f"{target.url} is not a tidegate: its list of models cannot be read.")
    return list(page["data"])
