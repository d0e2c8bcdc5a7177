"""Log lines of our processes: JSON objects, one a line, or plain text (TIDEGATE_LOG_FORMAT)."""

from __future__ import annotations

import logging
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
        second, told = self._newest
        if second != int(record.created):
            second = int(record.created)
            told = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._newest = second, told
        line = {
            "time": f"{told}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "part": self._part,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if current := request_id.current():
            line["request_id"] = current
        if (span := spans.current()) is not None:
            line["trace_id"], line["span_id"] = span.trace_id, span.span_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _encode(line).decode()


def set_up_logging(settings: Settings, part: str, stream: TextIO) -> None:
    """Of a whole process. part: what it is, as in gateway-0."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = (
        False  # no format of ours tells them
    )
    handler = logging.StreamHandler(stream)
    is_json = settings.log_format == "json"
    handler.setFormatter(JsonFormatter(part) if is_json else logging.Formatter(TEXT))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
