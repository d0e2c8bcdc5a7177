"""Reads files in child processes with bounded memory and time, so that a hostile file ruins only itself.

A reader process (`reader_process`) has all parsers loaded and forks for each file: a file costs milliseconds, has its
limits for itself and leaves nothing behind. A reader whose file broke the limits is replaced. Small plain text needs no
parser and is read at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Self

import msgspec

from gateway.errors import Unprocessable
from gateway.ingest.detect import HEAD_BYTES, Format, binary_format
from gateway.ingest.parse import recognised
from gateway.ingest.reading import Limits, Reading, read_source

INLINE_BYTES = 128 * 1024  # up to here plain text is read at once: under 1 s, whatever it holds
CPU_S = 5.0
CPU_S_PER_BYTE = 0.5e-6  # 2 MB/s: real pages are read 2 to 50 times as fast
CPU_S_PER_PAGE = 0.05  # of a PDF; a dense one takes a half of it
MIN_PAGE_BYTES = 1000  # so that a small file does not get the time of a thick book
CPU_S_OF_WORD = 20.0  # a docx is packed: of 1 MB, 15 MB of XML may come
WALL_FACTOR = 3.0  # the machine may be busy
START_S = 30.0  # for a reader process to load its parsers
MEMORY_BYTES = 2**30  # address space: an idle reader takes 150 MB of it, a 64 MB text about 700 MB

LENGTH = struct.Struct("!Q")  # before each message


class Request(msgspec.Struct, frozen=True, array_like=True):
    filename: str
    limits: Limits
    cpu_s: float
    memory_bytes: int
    data: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """reading None = refused, with the message, code and detail of the Unprocessable."""

    reading: Reading | None = None
    message: str = ""
    code: str = ""
    detail: str = ""


class _Died(Exception):
    """The reader is gone, or takes too long. Its text is for the log."""


class Sandbox:
    """Reads files from any number of threads; a reader process for each that is at it. Close it at the end."""

    def __init__(self) -> None:
        self._idle: list[_Reader] = []
        self._busy: set[_Reader] = set()
        self._lock = threading.Lock()
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End all readers. A file that is being read then is refused: who closes no longer wants it."""
        with self._lock:
            self._is_closed = True
            readers, self._idle = self._idle, []
            for reader in self._busy:
                reader.kill()
        for reader in readers:
            reader.end()

    def read(self, data: bytes, filename: str, limits: Limits) -> Reading:
        """`read_document`, in a child process where a parser is needed.

        Raises: Unprocessable; `file_too_complex` when it needs more time or memory than any real file.
        """
        if len(data) <= INLINE_BYTES:
            source = recognised(data, filename)
            if source.is_plain:
                return read_source(source, limits)
        answer = self._ask(Request(filename, limits, _cpu_s(data, filename, limits), MEMORY_BYTES, data))
        if answer.reading is None:
            raise Unprocessable(answer.message, code=answer.code, detail=answer.detail)
        return answer.reading

    def _ask(self, request: Request) -> Answer:
        reader = self._taken()
        try:
            answer = reader.ask(request)
        except _Died as error:
            reader.end()
            raise Unprocessable(
                "The file is too complex to be read within the limits of time and memory.",
                code="file_too_complex",
                detail=str(error),
            ) from None
        except BaseException:
            reader.end()
            raise
        finally:
            with self._lock:
                self._busy.discard(reader)
        self._give_back(reader)
        return answer

    def _taken(self) -> _Reader:
        with self._lock:
            reader = self._idle.pop() if self._idle else None
        if reader is not None and not reader.is_alive:
            reader.end()
            reader = None
        reader = reader or _Reader()
        with self._lock:
            self._busy.add(reader)
            if self._is_closed:
                reader.kill()
        return reader

    def _give_back(self, reader: _Reader) -> None:
        with self._lock:
            if not self._is_closed:
                self._idle.append(reader)
                return
        reader.end()


def _cpu_s(data: bytes, filename: str, limits: Limits) -> float:
    found = binary_format(data[:HEAD_BYTES], filename)
    extra_s = 0.0
    if found is Format.PDF:
        extra_s = CPU_S_PER_PAGE * min(limits.max_pages, len(data) / MIN_PAGE_BYTES)
    elif found is Format.DOCX:
        extra_s = CPU_S_OF_WORD
    return CPU_S + CPU_S_PER_BYTE * len(data) + extra_s


class _Reader:
    """A reader process and the socket to it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.ingest.reader_process"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=Path(__file__).parents[2],  # where `gateway` is found, installed or not
                start_new_session=True,  # ended as a group, with the fork that is at work
            )
        self._start_s = START_S

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: Request) -> Answer:
        """Raises: _Died."""
        deadline = time.monotonic() + WALL_FACTOR * request.cpu_s + self._start_s
        self._start_s = 0.0
        message = msgspec.msgpack.encode(request)
        try:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            self._socket.sendall(LENGTH.pack(len(message)) + message)
            (length,) = LENGTH.unpack(received(self._socket, LENGTH.size, deadline))
            return msgspec.msgpack.decode(received(self._socket, length, deadline), type=Answer)
        except TimeoutError:
            raise _Died(f"{request.filename!r}: no answer in time") from None
        except (OSError, EOFError, MemoryError, msgspec.DecodeError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1)
            raise _Died(f"{request.filename!r}: {error!r}; exit {self._process.returncode}") from None

    def kill(self) -> None:
        """Whoever waits for its answer gets an error, and ends it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> None:
        self._socket.close()
        self.kill()
        self._process.wait()


def received(channel: socket.socket, length: int, deadline: float | None = None) -> bytearray:
    """The next `length` bytes. Raises: EOFError at the end of the stream; TimeoutError."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        if deadline is not None:
            channel.settimeout(max(0.01, deadline - time.monotonic()))
        count = channel.recv_into(view[done:])
        if not count:
            raise EOFError("the stream ended")
        done += count
    return data
