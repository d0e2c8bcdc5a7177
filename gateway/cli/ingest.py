"""`tidegate ingest`: bring files and folders into a collection, with progress and a summary."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    KeyOption,
    PlainProgress,
    UrlOption,
    VarOption,
    console,
    plural,
    print_json,
    printable,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.cli.client import Api, Target
    from gateway.cli.ingest_plan import LocalFile
    from gateway.cli.ingest_progress import Indexing, Progress
    from gateway.cli.ingest_run import IngestRun, Summary

_EPILOG = """\b
Examples:
  tidegate ingest docs/                               a folder, with all below it
  tidegate ingest README.md 'notes/**/*.md'           files and globs
  tidegate ingest -c handbook --exclude '*.csv' ~/hb  into a collection of its own
  tidegate ingest --no-wait big/                      leave while the service indexes

\b
A file is named by its path below the working directory (one from elsewhere: from the folder given).
The same name with the same content costs nothing; with other content it replaces the old version as soon
as the new one can be searched. Hidden files and version-control folders below a folder are skipped.
Exit codes: 0 all well, 1 some file failed, 2 wrong usage, 3 no service answers, 130 stopped by Ctrl-C:
then run the same command again, it goes on where it stopped."""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(ingest)


def ingest(
    *,
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Files, folders, or quoted globs.")],
    collection: Annotated[
        str,
        typer.Option(
            "--collection", "-c", metavar="NAME", help="Collection, by name or id; made when missing."
        ),
    ] = "documents",
    include: Annotated[
        list[str] | None,
        typer.Option("--include", metavar="GLOB", help="Take only names that match; repeatable."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Leave out names or folders that match; repeatable."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until all can be searched.")] = True,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """Bring files and folders into a collection."""
    from gateway.cli.client import resolve_target
    from gateway.cli.ingest_plan import select

    if not collection.strip() or len(collection) > 256:
        raise CommandFailed("--collection must be a name of 1 to 256 characters.", ExitCode.USAGE)
    target = resolve_target(settings_of(var), url, key)
    files = select(paths, include=include or (), exclude=exclude or (), cwd=Path.cwd())
    if not files:
        raise CommandFailed(
            "No file is left to ingest: see --include, --exclude and the paths.", ExitCode.USAGE
        )
    summary = asyncio.run(_ingest(target, collection, files, wait=wait))
    if as_json:
        print_json(asdict(summary))
    else:
        _print(summary, collection)
    if summary.failed:
        raise typer.Exit(ExitCode.FAILED)


async def _ingest(target: Target, collection: str, files: list[LocalFile], *, wait: bool) -> Summary:
    from gateway.cli.client import Api
    from gateway.cli.ingest_plan import plan
    from gateway.cli.ingest_run import IngestRun, remote_files

    async with Api(target) as api:
        collection_id, others = await _collection(api, collection)
        attached, stored = await remote_files(api, collection_id)
        readable, unreadable = await asyncio.to_thread(_hash_all, files)
        with _progress() as progress:
            run = IngestRun(api, collection_id, others, progress)
            run.summary.failed.update(unreadable)
            try:
                return await run.run(plan(readable, attached, stored), wait=wait)
            except asyncio.CancelledError:
                _tell_stopped(run)
                raise


def _hash_all(files: list[LocalFile]) -> tuple[list[LocalFile], dict[str, str]]:
    from gateway.cli.ingest_plan import hash_file

    readable, unreadable = [], {}
    for file in files:
        try:
            readable.append(hash_file(file))
        except OSError as error:
            unreadable[file.name] = f"cannot be read: {error.strerror or error}"
    return readable, unreadable


async def _collection(api: Api, wanted: str) -> tuple[str, list[str]]:
    """The id of the collection (made when missing) and the ids of all others."""
    from gateway.cli.client import find_collection

    known = [(str(item["id"]), str(item.get("name") or "")) async for item in api.pages("/v1/vector_stores")]
    found = find_collection(known, wanted)
    if found is None:
        found = str((await api.post("/v1/vector_stores", {"name": wanted}))["id"])
    return found, [identifier for identifier, _ in known if identifier != found]


def _tell_stopped(run: IngestRun) -> None:
    left = plural(run.num_pending, "uploaded file")
    console(stderr=True).print(
        f"\nStopped. {left} may still be indexed by the service; run the same command again to finish."
    )


def _print(summary: Summary, collection: str) -> None:
    from rich.text import Text

    out = console()
    parts = [
        plural(len(names), "file") + f" {word}"
        for names, word in (
            (summary.added, "added"),
            (summary.replaced, "replaced"),
            (summary.unchanged, "unchanged"),
            (summary.queued, "queued"),
            (summary.failed, "failed"),
        )
        if names
    ]
    out.print(Text(f"{printable(collection)}: {', '.join(parts)}."), soft_wrap=True)
    for name, reason in sorted(summary.failed.items()):
        out.print(Text(f"  failed  {printable(name)}: {reason}", style="red"), soft_wrap=True)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Two bars on a terminal; a plain line now and then elsewhere. On standard error either way."""
    from gateway.cli.ingest_progress import Progress

    err = console(stderr=True)
    if not err.is_terminal:
        yield _plain_progress()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[name]}", markup=False, style="dim"),
    )
    with Bars(*columns, console=err, transient=True) as bars:
        upload = bars.add_task("Upload", total=None, name="")
        index = bars.add_task("Index", total=None, name="", visible=False)
        yield Progress(
            lambda done, total, name: bars.update(upload, completed=done, total=total, name=printable(name)),
            lambda look: bars.update(
                index,
                completed=look.files_done,
                total=look.num_files,
                name=f"{look.words()}  {printable(look.busy)}".rstrip(),
                visible=True,
            ),
        )


def _plain_progress() -> Progress:
    from gateway.cli.ingest_progress import Progress

    tell = PlainProgress().tell

    def indexed(look: Indexing) -> None:
        tell(f"Indexed {look.files_done} of {look.num_files} files: {look.words()}.")

    return Progress(lambda done, total, _name: tell(f"Uploaded {done} of {total} files."), indexed)
