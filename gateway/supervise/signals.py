"""Signals to stop, counted. The handlers do nothing else, so they cannot meet a lock that the main thread holds."""

from __future__ import annotations

import contextlib
import select
import signal
import socket
from types import FrameType, TracebackType
from typing import Any, Self

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignals:
    """While open, SIGINT, SIGTERM and SIGHUP are counted and wake `wait`. For the main thread."""

    def __init__(self) -> None:
        self.count = 0
        self.last = ""

    def __enter__(self) -> Self:
        self._woken, self._wake = socket.socketpair()
        for end in (self._woken, self._wake):
            end.setblocking(False)
        # The interpreter itself writes the byte, at the moment of the signal: a sleep that has just begun ends too.
        self._previous_fd = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._previous: list[tuple[int, Any]] = [
            (number, signal.signal(number, self._on_signal)) for number in STOP_SIGNALS
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._woken.close()
        self._wake.close()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.last = signal.Signals(number).name

    def wait(self, timeout_s: float) -> None:
        """Sleep, but not past a signal."""
        select.select([self._woken], [], [], timeout_s)
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
