"""What `tidegate ingest` has to do: which files, under which names, and what of them is there already. Pure.

A file's name in a collection is its path below the working directory; a file from elsewhere is named from the
folder given. The pair (name, sha256) decides whether anything has to move.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from gateway.cli.terminal import CommandFailed, ExitCode

VCS_FOLDERS = frozenset({"CVS", "_darcs", "SCCS"})  # the others are hidden anyway
MAX_NAME_CHARS = 512

Action = Literal["add", "replace", "resume", "unchanged"]


@dataclass(frozen=True)
class LocalFile:
    path: Path
    name: str
    sha256: str = ""
    num_bytes: int = 0


@dataclass(frozen=True)
class RemoteFile:
    """A file as the service knows it. status is empty when it is uploaded and in no collection looked at.

    replaces: the version whose place it took, or is to take.
    """

    file_id: str
    name: str
    sha256: str
    status: str = ""
    created_at: int = 0
    replaces: str = ""


@dataclass(frozen=True)
class Step:
    """One file's way. file_id: upload to use again ("" = none). stale: attached versions to remove afterwards.

    replaces: the one of them that is searchable; the service takes it away in the moment the new one can be searched.
    """

    file: LocalFile
    action: Action
    file_id: str = ""
    stale: tuple[str, ...] = ()
    replaces: str = ""


def select(
    arguments: Sequence[str], *, include: Sequence[str] = (), exclude: Sequence[str] = (), cwd: Path
) -> list[LocalFile]:
    """The files that the arguments mean, by name. Filters hold for files given directly as well.

    Raises: CommandFailed (usage) for a path that is not there, a glob without a match, two files of one name.
    """
    chosen: dict[str, Path] = {}
    for path, name in (pair for argument in arguments for pair in _expand(argument, cwd)):
        if not _is_wanted(name, include, exclude):
            continue
        if len(name) > MAX_NAME_CHARS:
            raise CommandFailed(
                f"The name {name[:60]}… is longer than {MAX_NAME_CHARS} characters.", ExitCode.USAGE
            )
        other = chosen.setdefault(name, path)
        if other != path:
            raise CommandFailed(
                f"{other} and {path} would both be named {name}; ingest them from a folder above both.",
                ExitCode.USAGE,
            )
    return [LocalFile(path, name) for name, path in sorted(chosen.items())]


def _expand(argument: str, cwd: Path) -> Iterator[tuple[Path, str]]:
    given = Path(os.path.abspath(cwd / Path(argument).expanduser()))  # .. resolved, symbolic links kept
    if given.exists():
        yield from _walk(given, cwd)
    elif glob.has_magic(argument):
        # a folder that matches is not walked: ** does that
        paths = [path for path in map(Path, sorted(glob.glob(str(given), recursive=True))) if path.is_file()]
        if not paths:
            raise CommandFailed(f"No file matches {argument!r}.", ExitCode.USAGE)
        fixed = next(folder for folder in given.parents if not glob.has_magic(str(folder)))
        for path in paths:
            yield path, _name(path, fixed.parent, cwd)
    else:
        raise CommandFailed(f"There is no file or folder {argument!r}.", ExitCode.USAGE)


def _walk(given: Path, cwd: Path) -> Iterator[tuple[Path, str]]:
    if given.is_file():
        yield given, _name(given, given.parent, cwd)
        return
    if not given.is_dir():
        raise CommandFailed(f"{given} is neither a file nor a folder.", ExitCode.USAGE)
    for folder, subfolders, names in os.walk(given):
        subfolders[:] = sorted(name for name in subfolders if not is_hidden(name))
        for name in sorted(names):
            path = Path(folder, name)
            if not is_hidden(name) and path.is_file():  # no sockets, no broken links
                yield path, _name(path, given.parent, cwd)


def is_hidden(name: str) -> bool:
    return name.startswith(".") or name in VCS_FOLDERS


def _name(path: Path, base: Path, cwd: Path) -> str:
    root = cwd if path.is_relative_to(cwd) else base
    # a file system may hold names that are not UTF-8; the service takes text only
    return path.relative_to(root).as_posix().encode("utf-8", "replace").decode()


def _is_wanted(name: str, include: Sequence[str], exclude: Sequence[str]) -> bool:
    return (not include or _matches(name, include)) and not _matches(name, exclude)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """A pattern means the whole name, the last part of it, or a folder on the way."""
    parts = name.split("/")
    return any(
        fnmatch(name, pattern)
        or fnmatch(parts[-1], pattern)
        or any(fnmatch("/".join(parts[:depth]), pattern.rstrip("/")) for depth in range(1, len(parts)))
        or any(fnmatch(part, pattern.rstrip("/")) for part in parts[:-1])
        for pattern in patterns
    )


def hash_file(file: LocalFile) -> LocalFile:
    """The same with its content's size and sha256. Raises: OSError."""
    with file.path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return LocalFile(file.path, file.name, digest, os.fstat(stream.fileno()).st_size)


def plan(
    local: Iterable[LocalFile], attached: Iterable[RemoteFile], uploaded: Iterable[RemoteFile] = ()
) -> list[Step]:
    """One step per local file. Whatever a run that broke off left behind ends as if it had not broken off.

    attached: files of the collection. uploaded: files in the tenant's store, whose bytes can be used again.
    """
    versions: dict[str, list[RemoteFile]] = {}
    for remote in attached:
        versions.setdefault(remote.name, []).append(remote)
    taken = {remote.file_id for group in versions.values() for remote in group}
    loose = {remote.file_id: remote for remote in uploaded if remote.file_id not in taken}
    spare = {(remote.name, remote.sha256): file_id for file_id, remote in loose.items()}
    return [_step(file, versions.get(file.name, []), spare, loose) for file in local]


def _step(
    file: LocalFile,
    versions: list[RemoteFile],
    spare: dict[tuple[str, str], str],
    loose: Container[str],
) -> Step:
    """loose: uploads that are in no version any more: replaced ones that nobody waited for are among them."""
    same = [remote for remote in versions if remote.sha256 == file.sha256]
    for action, status in (("unchanged", "completed"), ("resume", "in_progress")):
        kept = next((remote for remote in same if remote.status == status), None)
        if kept:
            stale = [remote.file_id for remote in versions if remote is not kept]
            stale += [kept.replaces] if kept.replaces in loose else []
            return Step(file, action, kept.file_id, tuple(stale))  # type: ignore[arg-type]
    replaces = any(remote.status == "completed" or remote.sha256 != file.sha256 for remote in versions)
    searchable = [remote.file_id for remote in versions if remote.status == "completed"]
    return Step(
        file,
        "replace" if replaces else "add",
        spare.get((file.name, file.sha256), ""),
        tuple(remote.file_id for remote in versions),
        searchable[-1] if searchable else "",
    )
