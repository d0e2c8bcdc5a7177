"""What the documents name must be there: settings, make targets, commands and their options, files, the version.

A page that is not written yet is no failure here, except the ones in REQUIRED.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from gateway import __version__
from gateway.cli import build_app
from gateway.cli.service import settings_markdown
from gateway.settings import PREFIX, Settings, secret_files

ROOT = Path(__file__).parents[2]
REQUIRED = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "ARCHITECTURE.md",
    "DECISIONS.md",
    "docs/settings.md",
)
# The changelog may name what a later version took away.
PAGES = sorted(
    path
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("perf/*.md"),
        *ROOT.glob("k8s/**/*.md"),
    )
    if path.name != "CHANGELOG.md"
)
FOLDERS = "docs|envoy|gateway|k8s|model_repository|perf|requirements|scripts|tests"

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def code_of(page: Path) -> Iterator[str]:
    """Lines of fenced blocks, and inline code."""
    text = page.read_text("utf-8")
    fence = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in fence.findall(text):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", fence.sub("", text))


def commands() -> dict[str, set[str]]:
    """Every command as it is typed (`keys create`) with its options."""
    root: Any = typer.main.get_command(build_app())
    found = {"": options_of(root)}
    for name, command in root.commands.items():
        found[name] = options_of(command)
        for inner, subcommand in getattr(command, "commands", {}).items():
            found[f"{name} {inner}"] = options_of(subcommand)
    return found


def options_of(command: Any) -> set[str]:
    named = {option for param in command.params for option in (*param.opts, *param.secondary_opts)}
    return named | {"--help", "-h"}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_required_page_is_there(name: str) -> None:
    assert (ROOT / name).is_file()


def test_the_settings_page_is_the_one_the_command_prints() -> None:
    written = (ROOT / "docs" / "settings.md").read_text("utf-8")
    assert written == settings_markdown(), "run `tidegate settings --markdown > docs/settings.md`"


@pages
def test_every_setting_named_exists(page: Path) -> None:
    known = {PREFIX + spec.name.upper() for spec in fields(Settings)} | set(secret_files())
    named = set(re.findall(rf"\b{PREFIX}[A-Z][A-Z0-9_]*", page.read_text("utf-8")))
    assert named - known == set()


@pages
def test_every_make_target_named_exists(page: Path) -> None:
    named = {target for line in code_of(page) for target in re.findall(r"\bmake ([a-z][a-z0-9-]*)", line)}
    assert named - targets() == set()


@pages
def test_every_command_and_option_named_exists(page: Path) -> None:
    known, wrong = commands(), []
    for line in code_of(page):
        for typed in re.findall(r"(?:^|[\s/$(|])tidegate ((?:[a-z]|--)[^|>&#;]*)", line):
            words = typed.split()
            if words[0] == "is":  # what the service prints, not what is typed
                continue
            is_group = any(name.startswith(f"{words[0]} ") for name in known)
            name = " ".join(words[: 2 if is_group else 1] if not words[0].startswith("-") else [])
            options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            if name not in known or options - known[name]:
                wrong.append(typed)
    assert wrong == []


def test_the_readme_names_every_command() -> None:
    named = " ".join(code_of(ROOT / "README.md"))
    assert [name for name in commands() if f"tidegate {name}".strip() not in named] == []


def test_the_readme_names_every_everyday_make_target() -> None:
    named = " ".join(code_of(ROOT / "README.md"))
    assert [name for name in ("run", "test", "check", "bench", "help") if f"make {name}" not in named] == []


@pages
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pages
def test_every_file_named_exists(page: Path) -> None:
    named = {
        path.rstrip("/.")
        for line in code_of(page)
        for path in re.findall(rf"(?<![\w./-])((?:{FOLDERS})/[\w./*-]+)(?![\w<{{…])", line)
    }
    assert sorted(path for path in named if not is_there(path)) == []


def is_there(path: str) -> bool:
    """In the repository, or made by a run of the benchmark."""
    return path.startswith("perf/out") or any(ROOT.glob(path))


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(
        r"^##\s+\[?v?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert headings
    assert headings[0] == __version__


def test_changelog_versions_fall() -> None:
    headings = re.findall(
        r"^##\s+\[?v?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    versions = [tuple(map(int, heading.split("."))) for heading in headings]
    assert versions == sorted(set(versions), reverse=True)
