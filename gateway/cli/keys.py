"""`tidegate keys`: make, list and revoke API keys, straight in the database.

Who may write the state folder (or has TIDEGATE_DATABASE_URL) rules the keys; the service need not run.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.limits import (
    MonthlyOption,
    RequestsOption,
    StreamsOption,
    TokensOption,
    chosen,
    limit_key,
    shown,
)
from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    VarOption,
    print_json,
    print_table,
    settings_of,
)
from gateway.settings import Settings

if TYPE_CHECKING:
    from gateway.storage.database import Database

KEY_CHANNEL = "tidegate:keys"  # gateways forget the key id that is published here
REDIS_TIMEOUT_S = 1.0

_EPILOG = """\b
Examples:
  tidegate keys create --tenant acme --name website
  KEY=$(tidegate keys create --tenant acme --name ci 2>/dev/null)
  tidegate keys create --tenant acme --name batch --requests-per-minute 60 --monthly-tokens 1000000
  tidegate keys list
  tidegate keys limit key_2f7c… --concurrent-streams 4
  tidegate keys revoke key_2f7c…"""


def register(app: typer.Typer) -> None:
    keys = typer.Typer(
        name="keys", help="Make, list and revoke API keys.", epilog=_EPILOG, no_args_is_help=True
    )
    keys.command(epilog=_EPILOG)(create)
    keys.command(name="list", epilog=_EPILOG)(list_)
    keys.command(epilog=_EPILOG)(revoke)
    keys.command(name="limit", epilog=_EPILOG)(limit_key)
    app.add_typer(keys)


def create(
    *,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose key; made when missing.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="What the key is for.")],
    admin: Annotated[bool, typer.Option("--admin", help="May also use /admin and /metrics.")] = False,
    requests: RequestsOption = None,
    tokens: TokensOption = None,
    streams: StreamsOption = None,
    monthly: MonthlyOption = None,
    as_json: JsonOption = False,
    var: VarOption = None,
) -> None:
    """Make a key. It is printed once, on standard output, and cannot be had again."""
    from msgspec import to_builtins

    from gateway.storage.keys import create_key
    from gateway.storage.limits import set_key_limits

    for option, value in (("--tenant", tenant), ("--name", name)):
        if not value.strip() or len(value) > 200 or not value.isprintable():
            raise CommandFailed(f"{option} must be 1 to 200 printable characters.", ExitCode.USAGE)
    limits = chosen(requests, tokens, streams, monthly)
    settings = settings_of(var)
    with open_database(settings, is_made=True) as database, database.write() as conn:
        row, secret = create_key(conn, tenant=tenant.strip(), name=name.strip(), is_admin=admin)
        set_key_limits(conn, row.id, limits)
    tell_gateways(settings, row.id)
    if as_json:
        print_json({**to_builtins(row), "limits": limits, "key": secret})
        return
    typer.echo(f"Key {row.id} of tenant {row.tenant}; keep it, it is not shown again:", err=True)
    print(secret)


def list_(as_json: JsonOption = False, var: VarOption = None) -> None:
    """List all keys, revoked ones too. The keys themselves are not stored, only their last characters."""
    from msgspec import to_builtins

    from gateway.storage.keys import list_keys
    from gateway.storage.limits import key_limits
    from gateway.types import Limits

    with open_database(settings_of(var)) as database, database.read() as conn:
        rows, limits = list_keys(conn), key_limits(conn)
    if as_json:
        print_json(
            [{**to_builtins(row), "limits": to_builtins(limits.get(row.id, Limits()))} for row in rows]
        )
        return
    print_table(
        ("id", "tenant", "name", "ends in", "admin", "created", "revoked", "limits"),
        (
            (
                row.id,
                row.tenant,
                row.name,
                row.hint,
                "yes" if row.is_admin else "",
                _date(row.created_at),
                _date(row.revoked_at),
                " ".join(each or "-" for each in shown(limits[row.id])) if row.id in limits else "",
            )
            for row in rows
        ),
    )


def revoke(
    key_id: Annotated[
        str, typer.Argument(metavar="ID", help="The key's id, as `tidegate keys list` shows it.")
    ],
    var: VarOption = None,
) -> None:
    """Revoke a key. Running gateways refuse it from now on."""
    from gateway.storage.keys import revoke_key

    settings = settings_of(var)
    with open_database(settings) as database, database.write() as conn:
        is_revoked = revoke_key(conn, key_id)
    if not is_revoked:
        raise CommandFailed(f"No valid key has the id {key_id!r}; `tidegate keys list` shows all.")
    tell_gateways(settings, key_id)
    print(f"Revoked {key_id}.")


@contextlib.contextmanager
def open_database(settings: Settings, *, is_made: bool = False) -> Iterator[Database]:
    """The database at the newest schema. Without `is_made` a missing SQLite file is an error, not an empty one."""
    from gateway.errors import TidegateError
    from gateway.storage.database import Database

    if not is_made and not settings.database_url and not (settings.var / "tidegate.db").exists():
        raise CommandFailed(f"There is no database in {settings.var}; name the state folder with --var.")
    database = Database(settings.sql_url)
    try:
        database.migrate()
        yield database
    except TidegateError as error:
        raise CommandFailed(error.message) from error
    finally:
        database.close()


def tell_gateways(settings: Settings, key_id: str) -> None:
    """Make gateways forget what they remember of a key. Best effort: they also forget by themselves."""
    import redis

    from gateway.supervise.instance import is_running

    if not settings.redis_url and not is_running(settings):
        return  # nobody to tell, and our Redis' old port (with its password) is not for others
    with contextlib.suppress(redis.RedisError, OSError, ValueError):
        client = redis.Redis.from_url(
            settings.redis_url or own_redis(settings),
            socket_connect_timeout=REDIS_TIMEOUT_S,
            socket_timeout=REDIS_TIMEOUT_S,
        )
        with contextlib.closing(client):
            client.publish(KEY_CHANNEL, key_id)


def own_redis(settings: Settings) -> str:
    from gateway.supervise.instance import read_instance

    ports = (read_instance(settings) or {}).get("ports") or {}
    password = (settings.var / "secrets" / "redis").read_text("ascii").strip()
    return f"redis://:{password}@127.0.0.1:{ports.get('redis', settings.redis_port)}"


def _date(at: int | None) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at)) if at else ""
