"""`tidegate collections`: what there is to search, and changing the model that makes a collection's vectors."""

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
    plural,
    print_json,
    print_table,
    printable,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.cli.client import Api, Target

_EPILOG = """\b
Examples:
  tidegate collections                                  all of them
  tidegate collections handbook --embedder bge-small    change its embedding model

\b
A collection stays searchable while its vectors are made anew: the new ones are built beside the old ones and take
their place at the end. Naming the present model calls a change off. TIDEGATE_EMBEDDERS says which models there are."""

POLL_S = 1.0


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(collections)


def collections(
    *,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One collection, by name or id; all without.")
    ] = None,
    embedder: Annotated[
        str | None, typer.Option("--embedder", metavar="MODEL", help="Make its vectors by this model.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of a change.")] = True,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """List the collections, or change one's embedder."""
    from gateway.cli.client import resolve_target

    if embedder is not None and name is None:
        raise CommandFailed("--embedder changes one collection: name it.", ExitCode.USAGE)
    target = resolve_target(settings_of(var), url, key)
    found = asyncio.run(_collections(target, name, embedder, wait=wait))
    if as_json:
        print_json(found)
    elif embedder is not None:
        print(_changed(found[0]))
    elif found:
        _print(found)
    else:
        print("There are no collections yet: `tidegate ingest PATH` makes one.")


async def _collections(
    target: Target, name: str | None, embedder: str | None, *, wait: bool
) -> list[dict[str, Any]]:
    from gateway.cli.client import Api, collection_ids

    async with Api(target) as api:
        if name is None:
            return [item async for item in api.pages("/v1/vector_stores")]
        (identifier,) = await collection_ids(api, [name])
        path = f"/v1/vector_stores/{identifier}"
        if embedder is not None:
            await api.post(path, {"tidegate": {"embedder": embedder}})
            if wait:
                await _until_changed(api, path)
        return [await api.get(path)]


async def _until_changed(api: Api, path: str) -> None:
    told = -1
    while (store := await api.get(path))["tidegate"].get("next_embedder"):
        progress = store["tidegate"].get("reembedding") or {}
        done, total = int(progress.get("num_done") or 0), int(progress.get("num_chunks") or 0)
        if done != told:
            typer.echo(f"{done:,} of {total:,} chunks have their new vector.", err=True)
        told = done
        await asyncio.sleep(POLL_S)


def _changed(store: dict[str, Any]) -> str:
    extension, name = store["tidegate"], printable(str(store.get("name") or store["id"]))
    if extension.get("next_embedder"):
        return (
            f"{name} changes from {extension['embedder']} to {extension['next_embedder']} in the background."
        )
    return f"{name} is searched with {extension['embedder']}."


def _print(stores: list[dict[str, Any]]) -> None:
    print_table(
        ("name", "id", "files", "chunks", "embedder", "state"),
        ([*_cells(store)] for store in stores),
        right=("files", "chunks"),
    )


def _cells(store: dict[str, Any]) -> tuple[str, ...]:
    extension, files = store.get("tidegate") or {}, store.get("file_counts") or {}
    embedder = str(extension.get("embedder") or "")
    if extension.get("next_embedder"):
        embedder += f" → {extension['next_embedder']}"
    return (
        printable(str(store.get("name") or "")),
        str(store["id"]),
        f"{files.get('completed', 0):,}",
        f"{extension.get('num_chunks', 0):,}",
        embedder,
        _state(files, extension),
    )


def _state(files: dict[str, Any], extension: dict[str, Any]) -> str:
    parts = []
    if files.get("in_progress"):
        done, total = extension.get("chunks_done", 0), extension.get("num_chunks", 0)
        parts.append(f"reading {plural(files['in_progress'], 'file')}, {done:,} of {total:,} chunks done")
    if files.get("failed"):
        parts.append(f"{plural(files['failed'], 'file')} failed")
    return "; ".join(parts) or "ready"
