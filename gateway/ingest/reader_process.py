"""`python -m gateway.ingest.reader_process`: the child side of `sandbox`, over the socket that is its standard input.

It loads the parsers once and forks for each request. The fork takes its limits upon itself, reads the request, answers
and ends. A fork that dies has left the stream between two messages, so the whole process ends with it.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
import traceback

import msgspec

from gateway.errors import Unprocessable
from gateway.ingest.reading import read_document
from gateway.ingest.sandbox import LENGTH, Answer, Request, received

_NICENESS = 5
_MAX_OPEN_FILES = 16
_FORBIDDEN = (
    "socket.",
    "subprocess.",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.system",
    "shutil.",
    "ftplib.",
    "urllib.",
)
_DETAIL_CHARS = 2000


def main() -> None:
    os.nice(_NICENESS)
    _load_parsers()
    gc.freeze()  # what is loaded stays shared with the forks
    with socket.socket(fileno=0) as channel:
        while channel.recv(1, socket.MSG_PEEK):
            pid = os.fork()
            if not pid:
                _serve(channel)
            _, status = os.waitpid(pid, 0)
            if status:
                sys.exit(abs(os.waitstatus_to_exitcode(status)))


def _load_parsers() -> None:
    import charset_normalizer  # noqa: F401

    import gateway.ingest.docx
    import gateway.ingest.html_text
    import gateway.ingest.pdf  # noqa: F401


def _serve(channel: socket.socket) -> None:
    """One request in the fork. Never returns."""
    status = 1
    try:
        (length,) = LENGTH.unpack(received(channel, LENGTH.size))
        request = msgspec.msgpack.decode(received(channel, length), type=Request)
        _confine(request)
        message = msgspec.msgpack.encode(answered(request))
        channel.sendall(LENGTH.pack(len(message)) + message)
        status = 0
    finally:
        os._exit(status)


def _confine(request: Request) -> None:
    """Memory, time, no files written, no way out."""
    seconds = int(request.cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_AS, (request.memory_bytes, request.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # first SIGXCPU, then SIGKILL
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN_FILES, _MAX_OPEN_FILES))
    sys.addaudithook(_forbid)


def _forbid(event: str, _arguments: tuple[object, ...]) -> None:
    """A parser needs neither network nor processes; one that asks for them has been talked into it."""
    if event.startswith(_FORBIDDEN):
        raise PermissionError(f"{event} is not for parsers")


def answered(request: Request) -> Answer:
    try:
        return Answer(read_document(request.data, request.filename, request.limits))
    except Unprocessable as error:
        return Answer(message=error.message, code=error.code, detail=error.detail)
    except (MemoryError, RecursionError) as error:
        return Answer(
            message="The file needs more memory than any real one; it is too complex to be read.",
            code="file_too_complex",
            detail=repr(error),
        )
    except Exception:  # noqa: BLE001 - the edge of this process: parsers raise what they like on broken input
        return Answer(
            message="The file is damaged or unusual and cannot be read.",
            code="damaged_file",
            detail=traceback.format_exc()[-_DETAIL_CHARS:],
        )


if __name__ == "__main__":
    main()
