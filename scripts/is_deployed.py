"""Whether Argo CD has taken up a deployment: reads an Application (JSON) from standard input.

    argocd app get tidegate-staging --refresh --output json | python -m scripts.is_deployed dist/images/*.ref

Exit codes: 0 it has compared the cluster with exactly these images, 1 not yet. Until then it calls the old deployment
synced and healthy, which says nothing of the new one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.set_images import BadReference, parse


def is_deployed(application: dict[str, Any], references: Sequence[str]) -> bool:
    """Raises: BadReference."""
    wanted = {"=".join(parse(each)) for each in references}
    node: Any = application
    for key in ("status", "sync", "comparedTo", "source", "kustomize", "images"):
        node = node.get(key) if isinstance(node, dict) else None
    return wanted <= set(node or [])


def main(argv: list[str]) -> int:
    try:
        application = json.load(sys.stdin)
        found = is_deployed(application, [Path(each).read_text("ascii") for each in argv])
    except (BadReference, OSError, json.JSONDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
