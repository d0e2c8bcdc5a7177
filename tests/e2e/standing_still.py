"""One thread of another process made to stand still, while its other threads go on.

SIGSTOP would stop all of them. The stub of a Triton model has a thread that says every 300 ms that the stub lives; once
that is late by a second, Triton gives the stub up and takes back the memory of its requests, and the stub crashes as
soon as it goes on. So only the thread that runs the model is held, which is how a model looks that computes for long.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17  # PTRACE_… of <sys/ptrace.h>
_ALL_THREADS = 0x40000000  # __WALL: waitpid takes threads that are not children, too

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


@contextmanager
def standing_still(thread: int) -> Iterator[None]:
    """Holds a thread, by its number (a process's number is that of its main thread). Enter and leave in one thread.

    Raises: OSError where there is no such thread, or where the system allows no ptrace.
    """
    _ptrace(_SEIZE, thread)
    try:
        _ptrace(_INTERRUPT, thread)
        os.waitpid(thread, _ALL_THREADS)  # until it stands
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
            _ptrace(_DETACH, thread)  # also lets it go on


def _ptrace(what: int, thread: int) -> None:
    if _libc.ptrace(what, thread, None, None) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace of thread {thread}: {os.strerror(number)}")
