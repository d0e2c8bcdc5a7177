"""The notes of a release, out of CHANGELOG.md: `python -m scripts.release_notes v0.1.0 > notes.md`.

Refuses a tag that is not the version in pyproject.toml, a version without a section, and one still marked unreleased.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


class NotReleasable(Exception):
    """The text is one sentence that says what to change."""


def release_notes(tag: str, pyproject: str, changelog: str) -> str:
    """The text of the section of the tag's version. Raises: NotReleasable."""
    version = str(tomllib.loads(pyproject)["project"]["version"])
    if tag != f"v{version}":
        raise NotReleasable(
            f"The tag is {tag}, but pyproject.toml says version {version}: it wants v{version}."
        )
    sections = re.split(r"^## +", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, body = section.partition("\n")
        named = re.match(r"\[?v?(\d+\.\d+\.\d+)\]?(.*)", heading)
        if not named or named.group(1) != version:
            continue
        if "unreleased" in named.group(2).lower():
            raise NotReleasable(
                f"CHANGELOG.md calls {version} unreleased: put the date of the release in its place."
            )
        if not body.strip():
            raise NotReleasable(f"CHANGELOG.md says nothing under {version}.")
        return body.strip() + "\n"
    raise NotReleasable(f"CHANGELOG.md has no section for {version}.")


def main(argv: list[str]) -> int:
    if len(argv) != 1:
        sys.stderr.write("usage: python -m scripts.release_notes TAG\n")
        return 2
    try:
        notes = release_notes(
            argv[0], (ROOT / "pyproject.toml").read_text("utf-8"), (ROOT / "CHANGELOG.md").read_text("utf-8")
        )
    except NotReleasable as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(notes)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
