"""Reads files that may cost much in a child process with bounded memory and time, so that a hostile file ruins only
itself.

HTML always goes there: the standard library's parser needs a minute for 60 kB of `<a <a <a` (quadratic). So does what
is large: reading it would hold the interpreter's lock against the other files. Starting a child takes about 0.1 s of
a core, which many small files need not pay.

`python -m gateway.ingest.sandbox` is the child: a request on standard input, a reading or a refusal on standard output
(msgpack).
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import msgspec

from gateway.errors import Unprocessable
from gateway.ingest.reading import Limits, Reading, read_document

INLINE_BYTES = 128 * 1024  # up to here plain text is read at once: under 1 s, whatever it holds
CPU_S = 5.0
CPU_S_PER_BYTE = 0.5e-6  # 2 MB/s: real pages are read 5 to 50 times as fast
WALL_FACTOR = 3.0  # the machine may be busy
MEMORY_BYTES = 2**30  # address space: an idle interpreter takes 30 MB of it, a 64 MB file about 700 MB


class _Request(msgspec.Struct, frozen=True, array_like=True):
    filename: str
    limits: Limits
    cpu_s: float
    data: bytes


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """reading None = refused, with the message and code of the Unprocessable."""

    reading: Reading | None = None
    message: str = ""
    code: str = ""


class _NeedsChild(Exception):
    """It is HTML."""


def read_limited(data: bytes, filename: str, limits: Limits) -> Reading:
    """`read_document`, in a child process where that is needed.

    Raises: Unprocessable; `file_too_complex` when it needs more time or memory than any real file.
    """
    if len(data) <= INLINE_BYTES:
        try:
            return read_document(data, filename, limits, read_html=_leave)
        except _NeedsChild:
            pass
    return _read_in_child(data, filename, limits)


def _leave(_html: str) -> str:
    raise _NeedsChild


def _read_in_child(data: bytes, filename: str, limits: Limits) -> Reading:
    cpu_s = CPU_S + CPU_S_PER_BYTE * len(data)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.ingest.sandbox"],
            input=msgspec.msgpack.encode(_Request(filename, limits, cpu_s, data)),
            capture_output=True,
            cwd=Path(__file__).parents[2],  # where `gateway` is found, installed or not
            timeout=WALL_FACTOR * cpu_s,
            check=True,
        )
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
        raise Unprocessable(
            "The file is too complex to be read within the limits.",
            code="file_too_complex",
            detail=f"{type(error).__name__}: {(error.stderr or b'')[-2000:].decode(errors='replace')}",
        ) from None
    answer = msgspec.msgpack.decode(done.stdout, type=_Answer)
    if answer.reading is None:
        raise Unprocessable(answer.message, code=answer.code)
    return answer.reading


def _main() -> None:
    # Memory first, input second. The CPU limit also ends a child whose parent was killed.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    request = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    seconds = int(request.cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    try:
        answer = _Answer(read_document(request.data, request.filename, request.limits))
    except Unprocessable as error:
        answer = _Answer(message=error.message, code=error.code)
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer))


if __name__ == "__main__":
    _main()
