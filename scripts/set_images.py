"""Which images an environment runs, written down for Argo CD.

    python -m scripts.set_images staging dist/images/*.ref

Each .ref file holds one reference by digest (scripts/image writes them). The environment's file in
k8s/argocd/environments then names them; images that are not given keep what they have. Committing that file is the
deployment: nothing here talks to a cluster.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENTS = Path(__file__).parents[1] / "k8s" / "argocd" / "environments"
_REFERENCE = re.compile(
    r"(?P<repository>[\w.:/-]*tidegate/(?P<name>[a-z-]+))@(?P<digest>sha256:[0-9a-f]{64})"
)
_LINE = re.compile(r"  - (?P<name>tidegate/[a-z-]+)=.*")


class BadReference(ValueError):
    """The text is one sentence."""


def parse(reference: str) -> tuple[str, str]:
    """Name in the manifests, reference to run. Raises: BadReference where it is not by digest."""
    found = _REFERENCE.fullmatch(reference.strip())
    if found is None:
        raise BadReference(f"{reference.strip()!r} is not REGISTRY/tidegate/NAME@sha256:DIGEST.")
    return f"tidegate/{found['name']}", found[0]


def with_images(text: str, references: Sequence[str]) -> str:
    """The environment's file with these references in its list `images`. Raises: BadReference."""
    head, marker, rest = text.partition("images:")
    if not marker:
        raise BadReference("The environment's file has no list `images`.")
    kept = {found["name"]: found[0] for found in map(_LINE.fullmatch, rest.splitlines()) if found}
    for name, reference in map(parse, references):
        kept[name] = f"  - {name}={reference}"
    lines = "".join(f"{kept[name]}\n" for name in sorted(kept))
    return f"{head}images:\n{lines}" if lines else f"{head}images: []\n"


def main(argv: list[str]) -> int:
    if len(argv) < 2:
        sys.stderr.write("usage: python -m scripts.set_images ENVIRONMENT REF_FILE…\n")
        return 2
    file = ENVIRONMENTS / f"{argv[0]}.yaml"
    try:
        references = [Path(each).read_text("ascii") for each in argv[1:]]
        file.write_text(with_images(file.read_text("utf-8"), references), "utf-8")
    except (BadReference, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
