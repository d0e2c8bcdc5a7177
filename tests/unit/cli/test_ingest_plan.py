"""Which files, under which names, and what has to move."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from gateway.cli.ingest_plan import LocalFile, RemoteFile, Step, hash_file, plan, select
from gateway.cli.terminal import CommandFailed, ExitCode

FILES = (
    "docs/a.md",
    "docs/b.csv",
    "docs/sub/a.md",
    "docs/sub/.hidden.md",
    "docs/.git/config",
    "docs/CVS/Root",
    "README.md",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path / "work"


def names(
    *arguments: str, cwd: Path, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()
) -> list[str]:
    return [file.name for file in select(arguments, include=include, exclude=exclude, cwd=cwd)]


def test_a_folder_is_walked_without_hidden_and_vcs_files(folder: Path) -> None:
    assert names("docs", cwd=folder) == ["docs/a.md", "docs/b.csv", "docs/sub/a.md"]


@pytest.mark.parametrize("argument", ["docs/a.md", "./docs/a.md", "docs/../docs/a.md"])
def test_a_file_is_named_from_the_working_directory(folder: Path, argument: str) -> None:
    assert names(argument, cwd=folder) == ["docs/a.md"]


def test_all_spellings_of_a_file_are_one_file(folder: Path) -> None:
    assert names("docs", "docs/a.md", str(folder / "docs"), cwd=folder) == names("docs", cwd=folder)


def test_a_folder_from_elsewhere_keeps_its_own_name(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert names(str(folder / "docs"), cwd=elsewhere) == ["docs/a.md", "docs/b.csv", "docs/sub/a.md"]
    assert names("../work/docs/*.md", cwd=elsewhere) == ["docs/a.md"]
    assert names("../work/README.md", cwd=elsewhere) == ["README.md"]


def test_a_file_that_is_given_may_be_hidden(folder: Path) -> None:
    assert names("docs/sub/.hidden.md", cwd=folder) == ["docs/sub/.hidden.md"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("docs/*.md", ["docs/a.md"]),
        ("docs/**/*.md", ["docs/a.md", "docs/sub/a.md"]),
        ("*.md", ["README.md"]),
        ("do[bc]s/?.csv", ["docs/b.csv"]),
    ],
)
def test_quoted_globs_are_expanded(folder: Path, pattern: str, expected: list[str]) -> None:
    assert names(pattern, cwd=folder) == expected


def test_a_name_with_brackets_is_a_file_before_it_is_a_glob(folder: Path) -> None:
    (folder / "[a].md").write_text("x")
    assert names("[a].md", cwd=folder) == ["[a].md"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        (("*.md",), (), ["docs/a.md", "docs/sub/a.md"]),
        (("docs/a.*",), (), ["docs/a.md"]),
        ((), ("*.csv", "sub"), ["docs/a.md"]),
        ((), ("docs/sub/",), ["docs/a.md", "docs/b.csv"]),
        (("*.md",), ("a.md",), []),
    ],
)
def test_filters_know_names_paths_and_folders(
    folder: Path, include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]
) -> None:
    assert names("docs", cwd=folder, include=include, exclude=exclude) == expected


@pytest.mark.parametrize("argument", ["nix.md", "*.nix", "/dev/null"])
def test_what_is_no_file_is_wrong_usage(folder: Path, argument: str) -> None:
    with pytest.raises(CommandFailed) as caught:
        names(argument, cwd=folder)
    assert caught.value.exit_code == ExitCode.USAGE


def test_two_files_of_one_name_are_refused(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(CommandFailed, match=r"both be named a\.md"):
        names(str(folder / "docs/a.md"), str(folder / "docs/sub/a.md"), cwd=other)


def test_links_to_files_count_and_broken_ones_do_not(folder: Path) -> None:
    (folder / "docs/link.md").symlink_to("a.md")
    (folder / "docs/broken.md").symlink_to("nowhere")
    (folder / "docs/sub/loop").symlink_to("..")
    assert "docs/link.md" in names("docs", cwd=folder)
    assert len(names("docs", cwd=folder)) == 4


def test_a_hash_is_that_of_the_bytes(folder: Path) -> None:
    hashed = hash_file(LocalFile(folder / "README.md", "README.md"))
    assert hashed.sha256 == hashlib.sha256(b"README.md").hexdigest()


FILE = LocalFile(Path("a.md"), "a.md", "new")


def remote(file_id: str, sha256: str, status: str = "completed", name: str = "a.md") -> RemoteFile:
    return RemoteFile(file_id, name, sha256, status)


@pytest.mark.parametrize(
    ("attached", "uploaded", "step"),
    [
        ([], [], Step(FILE, "add")),
        ([remote("1", "new", name="b.md")], [], Step(FILE, "add")),
        ([], [remote("1", "new", "")], Step(FILE, "add", "1")),
        ([remote("1", "new")], [], Step(FILE, "unchanged", "1")),
        ([remote("1", "old")], [], Step(FILE, "replace", "", ("1",), "1")),
        ([remote("1", "older"), remote("2", "old")], [], Step(FILE, "replace", "", ("1", "2"), "2")),
        ([remote("1", "old"), remote("2", "new")], [], Step(FILE, "unchanged", "2", ("1",))),
        ([remote("1", "old"), remote("2", "new", "in_progress")], [], Step(FILE, "resume", "2", ("1",))),
        ([remote("1", "new", "failed")], [], Step(FILE, "add", "", ("1",))),
        ([remote("1", "old"), remote("2", "new", "failed")], [], Step(FILE, "replace", "", ("1", "2"), "1")),
        ([remote("1", "new"), remote("2", "new")], [], Step(FILE, "unchanged", "1", ("2",))),
        ([remote("1", "new", name="b.md")], [remote("1", "new", "", "a.md")], Step(FILE, "add")),
    ],
    ids=[
        "new",
        "same bytes under another name",
        "uploaded but never attached",
        "unchanged",
        "changed",
        "changed, and two old ones are there",
        "stopped before the old one went",
        "stopped while indexing",
        "failed before",
        "failed before, an old one answers",
        "there twice",
        "an upload in use is not spare",
    ],
)
def test_one_step_settles_every_state(
    attached: list[RemoteFile], uploaded: list[RemoteFile], step: Step
) -> None:
    assert plan([FILE], attached, uploaded) == [step]


def test_a_replaced_version_that_nobody_waited_for_goes_with_the_next_run() -> None:
    kept = RemoteFile("2", "a.md", "new", "completed", replaces="1")
    assert plan([FILE], [kept], [remote("1", "old", "")]) == [Step(FILE, "unchanged", "2", ("1",))]
    assert plan([FILE], [kept], []) == [Step(FILE, "unchanged", "2")]
