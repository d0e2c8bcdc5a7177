"""`tidegate cache`: what the answer cache holds in Redis, and forgetting a part of it, in every worker at once."""

from __future__ import annotations

import asyncio
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
    from gateway.settings import Settings

CALL_S = 10.0

_EPILOG = """\b
Examples:
  tidegate cache stats
  tidegate cache purge --tenant acme
  tidegate cache purge --tenant acme --collection vs_123
  tidegate cache purge --tenant acme --file file-123

\b
Changed and deleted documents need no purge: their answers are not given any more."""


def register(app: typer.Typer) -> None:
    cache = typer.Typer(
        name="cache",
        help="Look at remembered answers, and forget them.",
        epilog=_EPILOG,
        no_args_is_help=True,
    )
    cache.command(epilog=_EPILOG)(stats)
    cache.command(epilog=_EPILOG)(purge)
    app.add_typer(cache)


def stats(as_json: JsonOption = False, var: VarOption = None) -> None:
    """Show how many answers each tenant has in Redis.

    What each worker holds of them is in its metrics (tidegate_cache_*).
    """
    rows = _with_redis(settings_of(var), lambda redis: _stats(redis, _names(settings_of(var))))
    if as_json:
        print_json(rows)
        return
    print_table(
        ("tenant", "id", "answers", "bytes"),
        ((row["tenant"], row["tenant_id"], f"{row['answers']:,}", f"{row['bytes']:,}") for row in rows),
        right=("answers", "bytes"),
    )


def purge(
    *,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose answers; a name or an id.")],
    collection: Annotated[
        str, typer.Option("--collection", metavar="ID", help="Only those with a passage of this collection.")
    ] = "",
    file: Annotated[
        str, typer.Option("--file", metavar="ID", help="Only those with a passage of this file.")
    ] = "",
    as_json: JsonOption = False,
    var: VarOption = None,
) -> None:
    """Forget a tenant's remembered answers, or those with a passage of one collection or file.

    While the service is not running, all that waits for its next start is forgotten.
    """
    from gateway.caching.purging import purge as forget
    from gateway.caching.shared import Purge

    settings = settings_of(var)
    tenant_id = {name: known for known, name in _names(settings).items()}.get(tenant, tenant)
    if tenant_id not in _names(settings):
        raise CommandFailed(f"No tenant is called {tenant[:100]!r}; `tidegate tenants list` shows all.")
    if _forgot_the_last_run(settings):
        if as_json:
            print_json({"purged": None})
        else:
            print("The service is not running; all that its last run remembered is forgotten.")
        return
    order = Purge(tenant_id=tenant_id, collection_id=collection, file_id=file)
    num_gone = _with_redis(settings, lambda redis: forget(redis, order))
    if as_json:
        print_json({"purged": num_gone})
    else:
        print(f"Forgot {num_gone:,} answers of {tenant}, and told every worker.")


def _forgot_the_last_run(settings: Settings) -> bool:
    """What waits on disk for the next start goes as a whole: nobody can look into it. False = nothing does."""
    from gateway.supervise.instance import is_running
    from gateway.supervise.redis_config import snapshot_path
    from gateway.supervise.snapshot import forget_snapshot

    if settings.redis_url or is_running(settings) or not snapshot_path(settings).exists():
        return False
    forget_snapshot(settings)
    return True


def _names(settings: Settings) -> dict[str, str]:
    """Tenants by id."""
    from gateway.cli.keys import open_database
    from gateway.storage.limits import list_tenants

    with open_database(settings) as database, database.read() as conn:
        return {row.id: row.name for row in list_tenants(conn)}


async def _stats(redis: Any, names: dict[str, str]) -> list[dict[str, Any]]:
    from gateway.caching.purging import held

    return [
        {"tenant": name, "tenant_id": tenant_id, "answers": count, "bytes": num_bytes}
        for tenant_id, name in names.items()
        for count, num_bytes in [await held(redis, tenant_id)]
    ]


def _with_redis(settings: Settings, work: Any) -> Any:
    """Raises: CommandFailed while Redis does not answer."""
    from redis.asyncio import Redis
    from redis.exceptions import RedisError

    from gateway.cli.keys import own_redis
    from gateway.supervise.instance import is_running

    if not settings.redis_url and not is_running(settings):
        raise CommandFailed("The service is not running, so its cache is not there.", ExitCode.NOT_RUNNING)

    async def run() -> Any:
        redis = Redis.from_url(settings.redis_url or own_redis(settings), socket_connect_timeout=CALL_S)
        try:
            async with asyncio.timeout(CALL_S):
                return await work(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(run())
    except (RedisError, OSError, TimeoutError) as error:
        raise CommandFailed(
            "Redis does not answer (TIDEGATE_REDIS_URL), so nothing was done.",
            ExitCode.FAILED,
        ) from error
