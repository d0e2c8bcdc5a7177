"""Starts a program that dies with its parent: `python leash.py SIGNAL PROGRAM ARGS…`.

The kernel sends SIGNAL when the parent is gone, however it went (PR_SET_PDEATHSIG survives exec). This file runs
with `-I -S` and imports next to nothing: it is on the path of every process that we start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    parent = os.getppid()
    number = int(getattr(signal, f"SIG{argv[0]}"))
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number, 0, 0, 0) != 0:
        sys.exit(f"leash: prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it died between the two lines
        sys.exit("leash: the parent is already gone")
    os.execv(argv[1], argv[1:])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
