"""Runs a parser in a child process with bounded memory and time, so that a hostile file ruins only itself.

`python -m gateway.ingest.sandbox` is the child: HTML on standard input, text on standard output. The standard
library's HTML parser needs a minute for 60 kB of `<a <a <a` (quadratic), which is why it must not run in ours.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from gateway.errors import Unprocessable
from gateway.ingest.html_text import html_to_markdown

CPU_S = 10
WALL_S = 30.0  # more than CPU_S: the machine may be busy
MEMORY_BYTES = 2**30  # address space: an idle interpreter takes 30 MB of it, a 64 MB file about 700 MB


def html_to_markdown_limited(html: str) -> str:
    """`html_to_markdown` in a child process.

    Raises: Unprocessable `file_too_complex` when it needs more time or memory than any real page.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.ingest.sandbox"],
            input=html.encode(errors="replace"),
            capture_output=True,
            cwd=Path(__file__).parents[2],  # where `gateway` is found, installed or not
            timeout=WALL_S,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise Unprocessable(
            "The file's markup is too complex to be read within the limits.",
            code="file_too_complex",
            detail=f"{error}: {(error.stderr or b'')[-2000:].decode(errors='replace')}",
        ) from error
    return done.stdout.decode()


def _main() -> None:
    # Limits first, input second. The CPU limit also ends a child whose parent was killed.
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    html = sys.stdin.buffer.read().decode()
    sys.stdout.buffer.write(html_to_markdown(html).encode())


if __name__ == "__main__":
    _main()
