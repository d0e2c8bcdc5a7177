"""`tidegate tenants`, and the limits of keys: what may be used, straight in the database, as with `tidegate keys`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    VarOption,
    print_json,
    print_table,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.types import Limits

_EPILOG = """\b
Examples:
  tidegate tenants list
  tidegate tenants limit acme --requests-per-minute 600 --monthly-tokens 50000000
  tidegate tenants limit acme --concurrent-streams 0     (unlimited, whatever the settings say)
  tidegate tenants limit acme --reset                    (back to the settings)"""

_HELP = "in a minute; 0 = unlimited."
RequestsOption = Annotated[
    int | None, typer.Option("--requests-per-minute", metavar="N", min=0, help=f"Requests {_HELP}")
]
TokensOption = Annotated[
    int | None,
    typer.Option("--tokens-per-minute", metavar="N", min=0, help=f"Tokens of prompts and answers {_HELP}"),
]
StreamsOption = Annotated[
    int | None,
    typer.Option("--concurrent-streams", metavar="N", min=0, help="Answers running at once; 0 = unlimited."),
]
MonthlyOption = Annotated[
    int | None,
    typer.Option(
        "--monthly-tokens", metavar="N", min=0, help="Tokens in a calendar month (UTC); 0 = unlimited."
    ),
]
ResetOption = Annotated[bool, typer.Option("--reset", help="First forget all limits that were set.")]


def register(app: typer.Typer) -> None:
    tenants = typer.Typer(
        name="tenants", help="List tenants and set their limits.", epilog=_EPILOG, no_args_is_help=True
    )
    tenants.command(name="list", epilog=_EPILOG)(list_)
    tenants.command(epilog=_EPILOG)(limit)
    app.add_typer(tenants)


def list_(as_json: JsonOption = False, var: VarOption = None) -> None:
    """List all tenants with the limits that were set for them."""
    from msgspec import to_builtins

    from gateway.cli.keys import open_database
    from gateway.storage.limits import list_tenants

    with open_database(settings_of(var)) as database, database.read() as conn:
        rows = list_tenants(conn)
    if as_json:
        print_json(to_builtins(rows))
        return
    print_table(
        ("tenant", "id", "requests/min", "tokens/min", "streams", "tokens/month"),
        ((row.name, row.id, *shown(row.limits)) for row in rows),
    )


def limit(
    tenant: Annotated[str, typer.Argument(metavar="NAME", help="The tenant; made when missing.")],
    *,
    requests: RequestsOption = None,
    tokens: TokensOption = None,
    streams: StreamsOption = None,
    monthly: MonthlyOption = None,
    reset: ResetOption = False,
    var: VarOption = None,
) -> None:
    """Set a tenant's limits.

    What is not named stays. Running gateways go by them from now on.
    """
    from gateway.cli.keys import open_database, tell_gateways
    from gateway.storage.keys import ensure_tenant
    from gateway.storage.limits import set_tenant_limits

    if not tenant.strip() or len(tenant) > 200 or not tenant.isprintable():
        raise CommandFailed("NAME must be 1 to 200 printable characters.", ExitCode.USAGE)
    values = chosen(requests, tokens, streams, monthly, reset=reset)
    if not values:
        raise CommandFailed("Name a limit to set, or --reset.", ExitCode.USAGE)
    settings = settings_of(var)
    with open_database(settings, is_made=True) as database, database.write() as conn:
        tenant_id = ensure_tenant(conn, tenant.strip())
        set_tenant_limits(conn, tenant.strip(), values)
    tell_gateways(settings, tenant_id)
    print(f"Set the limits of {tenant.strip()}.")


def limit_key(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id, as `tidegate keys list` shows it.")
    ],
    *,
    requests: RequestsOption = None,
    tokens: TokensOption = None,
    streams: StreamsOption = None,
    monthly: MonthlyOption = None,
    reset: ResetOption = False,
    var: VarOption = None,
) -> None:
    """Set a key's own limits.

    They come on top of its tenant's. What is not named stays.
    """
    from gateway.cli.keys import open_database, tell_gateways
    from gateway.storage.limits import set_key_limits

    values = chosen(requests, tokens, streams, monthly, reset=reset)
    if not values:
        raise CommandFailed("Name a limit to set, or --reset.", ExitCode.USAGE)
    settings = settings_of(var)
    with open_database(settings) as database, database.write() as conn:
        is_known = set_key_limits(conn, key_id, values)
    if not is_known:
        raise CommandFailed(f"No key has the id {key_id!r}; `tidegate keys list` shows all.")
    tell_gateways(settings, key_id)
    print(f"Set the limits of {key_id}.")


def chosen(
    requests: int | None, tokens: int | None, streams: int | None, monthly: int | None, *, reset: bool = False
) -> dict[str, int | None]:
    """By the names of types.Limits. Raises: CommandFailed for numbers that are too large to be stored."""
    from gateway.storage.limits import MAX_LIMIT, MAX_TOKENS, NAMES

    given = dict(zip(NAMES, (requests, tokens, streams, monthly), strict=True))
    for name, value in given.items():
        most = MAX_TOKENS if "tokens" in name else MAX_LIMIT
        if value is not None and value > most:
            raise CommandFailed(f"--{name.replace('_', '-')} must be at most {most}.", ExitCode.USAGE)
    values: dict[str, int | None] = dict.fromkeys(NAMES) if reset else {}
    return values | {name: value for name, value in given.items() if value is not None}


def shown(limits: Limits | Mapping[str, Any]) -> tuple[str, ...]:
    """In the order of types.Limits; empty = not set."""
    from gateway.storage.limits import NAMES

    return tuple(_number(getattr(limits, name)) for name in NAMES)


def _number(value: int | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if value else "unlimited"
