"""Log lines of our processes: JSON objects, one a line, or plain text (TIDEGATE_LOG_FORMAT)."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TextIO

import msgspec

from gateway import request_id
from gateway.settings import Settings
from gateway.tracing import spans

_encode = msgspec.json.Encoder().encode
TEXT = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, message; request_id where the line belongs to one, trace_id and span_id where a trace
    is kept of it; error with its traceback."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part
        self._newest = (-1, "")  # whole second, and how it is written; one value, as several threads log

    def format(self, record: logging.LogRecord) -> str:
        line = self._line(record.created, record.levelname.lower(), record.name, record.getMessage())
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()

    def format_info(self, name: str, message: str) -> str:
        """The line of a record of INFO that is made now."""
        return _encode(self._line(time.time(), "info", name, message)).decode()

    def _line(self, created: float, level: str, name: str, message: str) -> dict[str, str]:
        """created: unix seconds."""
        whole = int(created)
        second, told = self._newest
        if second != whole:
            second, told = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
            self._newest = second, told
        line = {
            "time": f"{told}.{int((created - whole) * 1000):03d}Z",
            "level": level,
            "part": self._part,
            "logger": name,
            "message": message,
        }
        if current := request_id.current():
            line["request_id"] = current
        if (span := spans.current()) is not None:
            line["trace_id"], line["span_id"] = span.trace_id, span.span_id
        return line


class BatchHandler(logging.StreamHandler[TextIO]):
    """Writes what has gathered in one go, EVERY_S later at the latest, and at once from WARNING on: a line for each
    request would be a call of the system for each. Killed, a process loses the newest lines of INFO and below."""

    EVERY_S = 0.1
    MAX_CHARS = 1 << 16

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._num_chars = 0
        self._has_lines = threading.Event()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._add(self.format(record), is_urgent=record.levelno >= logging.WARNING)
        except Exception:  # noqa: BLE001  as logging itself has it: a line is never worth more
            self.handleError(record)

    def info(self, log: logging.Logger, message: str) -> None:
        """As the logger's own, without a record where the format needs none."""
        if not isinstance(self.formatter, JsonFormatter):
            log.info("%s", message)
            return
        try:
            with self.lock:  # type: ignore[union-attr]  # there is one from the constructor on
                self._add(self.formatter.format_info(log.name, message), is_urgent=False)
        except Exception:  # noqa: BLE001  as in `emit`
            self.handleError(log.makeRecord(log.name, logging.INFO, "", 0, message, (), None))

    def _add(self, line: str, *, is_urgent: bool) -> None:
        self._lines.append(line + self.terminator)
        self._num_chars += len(line)
        if is_urgent or self._num_chars > self.MAX_CHARS:
            self.flush()
        elif not self._has_lines.is_set():
            self._has_lines.set()

    def flush(self) -> None:
        with self.lock:  # type: ignore[union-attr]  # there is one from the constructor on
            lines, self._lines, self._num_chars = self._lines, [], 0
            self._has_lines.clear()
            if lines:
                self.stream.write("".join(lines))
            super().flush()

    def _run(self) -> None:
        while True:
            self._has_lines.wait()
            time.sleep(self.EVERY_S)
            with contextlib.suppress(OSError, ValueError):  # nobody reads any more, or the stream is closed
                self.flush()


def info(log: logging.Logger, message: str) -> None:
    """`log.info`, for lines that each request writes: at a quarter of the time where the process logs as ours do."""
    if not log.isEnabledFor(logging.INFO):
        return
    handlers = logging.root.handlers
    if len(handlers) == 1 and isinstance(handlers[0], BatchHandler):
        handlers[0].info(log, message)
    else:
        log.info("%s", message)


def set_up_logging(settings: Settings, part: str, stream: TextIO) -> None:
    """Of a whole process. part: what it is, as in gateway-0."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = (
        False  # no format of ours tells them
    )
    logging._srcfile = None  # the documented way to leave out who called
    handler = BatchHandler(stream)
    is_json = settings.log_format == "json"
    handler.setFormatter(JsonFormatter(part) if is_json else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
