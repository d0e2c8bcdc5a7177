"""Multipart uploads, streamed to disk: memory stays flat whatever the file's size.

Works on the push parser of python-multipart; only the fields `file` (once) and `purpose` are taken.
"""

from __future__ import annotations

import asyncio
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from sanic import Request
from sanic.exceptions import PayloadTooLarge as SanicPayloadTooLarge

from gateway.api.decode import resume_reading
from gateway.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from gateway.storage.blobs import BlobWriter

MAX_FIELD_BYTES = 4096
MAX_PARTS = 16
WRITE_BYTES = 1 << 20  # bytes gathered before a write to disk goes to a thread
_KNOWN = ("file", "purpose", "expires_after[anchor]", "expires_after[seconds]")


class UploadForm:
    """The state of one form as it arrives. After the end: `filename`, `fields`."""

    def __init__(self, boundary: bytes, max_file_bytes: int) -> None:
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self.chunk = bytearray()  # file bytes not yet written
        self.is_complete = False
        self._max_file_bytes = max_file_bytes
        self._num_file_bytes = 0
        self._num_parts = 0
        self._headers: dict[str, str] = {}
        self._header_name = self._header_value = b""
        self._field: str | None = None
        self._value = bytearray()
        callbacks: dict[str, Any] = {
            "on_part_begin": self._part_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value_part,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def feed(self, data: bytes) -> None:
        """Raises: InvalidRequest, PayloadTooLarge."""
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise InvalidRequest(
                f"The multipart body is malformed: {error}.", code="invalid_multipart"
            ) from None

    def _part_begin(self) -> None:
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise InvalidRequest(f"The form has more than {MAX_PARTS} parts.", code="invalid_multipart")
        self._headers, self._field, self._value = {}, None, bytearray()
        self._header_name = self._header_value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _header_value_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header_name.decode("latin-1").lower()] = self._header_value.decode(
            "utf-8", "replace"
        )
        self._header_name = self._header_value = b""

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", "").encode())
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name not in _KNOWN:
            raise InvalidRequest(
                f"The form field {name[:100]!r} is not known.", code="unknown_field", param=name[:100]
            )
        if name == "file":
            if self.filename is not None:
                raise InvalidRequest("The form holds more than one file.", param="file")
            self.filename = clean_filename(options.get(b"filename", b"").decode("utf-8", "replace"))
        self._field = name

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == "file":
            self._num_file_bytes += end - start
            if self._num_file_bytes > self._max_file_bytes:
                raise PayloadTooLarge(
                    f"The file is larger than {self._max_file_bytes} bytes (TIDEGATE_MAX_FILE_BYTES).",
                    code="file_too_large",
                    param="file",
                )
            self.chunk += data[start:end]
        else:
            self._value += data[start:end]
            if len(self._value) > MAX_FIELD_BYTES:
                raise InvalidRequest(f"The form field {self._field!r} is too long.", param=self._field)

    def _part_end(self) -> None:
        if self._field not in (None, "file"):
            self.fields[str(self._field)] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self.is_complete = True


def clean_filename(name: str) -> str:
    """A name to show, never a path to open: no control characters, no `..` steps, at most 512 characters.

    Folders stay (`docs/guide.md`): they tell files of one name apart.
    """
    shown = "".join(char for char in name if char.isprintable())
    parts = [part for part in shown.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)[-512:] or "unnamed"


async def receive(request: Request, writer: BlobWriter, max_file_bytes: int) -> UploadForm:
    """Stream the request's form, its file into `writer`.

    Raises: UnsupportedMediaType, InvalidRequest (malformed, no file), PayloadTooLarge.
    """
    content_type, options = parse_options_header(request.headers.getone("content-type", "").encode())
    boundary = options.get(b"boundary", b"")
    if content_type != b"multipart/form-data":
        raise UnsupportedMediaType("Upload files as multipart/form-data.")
    if not boundary or len(boundary) > 256:
        raise InvalidRequest("The multipart boundary is missing.", code="invalid_multipart")
    form = UploadForm(boundary, max_file_bytes)
    try:
        while (data := await request.stream.read()) is not None:  # type: ignore[union-attr]
            form.feed(data)
            if len(form.chunk) >= WRITE_BYTES:
                await _flush(form, writer)
    except SanicPayloadTooLarge:
        raise PayloadTooLarge("The file is too large.", code="file_too_large", param="file") from None
    resume_reading(request)
    await _flush(form, writer)
    if not form.is_complete:
        raise InvalidRequest("The multipart body ends early.", code="invalid_multipart")
    if form.filename is None:
        raise InvalidRequest("The form field `file` is missing.", param="file")
    return form


async def _flush(form: UploadForm, writer: BlobWriter) -> None:
    data, form.chunk = bytes(form.chunk), bytearray()
    if data:
        await asyncio.to_thread(writer.write, data)
