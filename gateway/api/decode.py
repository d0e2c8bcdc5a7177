"""One body decode, bounded and strict. What is wrong is said once, with its place."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from sanic import Request
from sanic.exceptions import SanicException
from sanic.http import Http

from gateway.errors import DeadlineExceeded, InvalidRequest, PayloadTooLarge, UnsupportedMediaType

T = TypeVar("T")
_PATTERN = "Expected `str` matching regex"  # all patterns of `schemas` refuse one thing
_PLACE = re.compile(r" - at `(?:key` in `)?\$\.?(?P<place>[^`]*)`\Z")


BODY_TIMEOUT_S = 30.0
LINGER_BYTES = 64 * 2**20  # read and thrown away after a refusal, so that the client gets to see it


async def read_body(request: Request, max_bytes: int) -> None:
    """Read the whole body into `request.body`.

    Raises: PayloadTooLarge (nothing over the limit is kept in memory), DeadlineExceeded (it trickles in).
    """
    if _has_arrived(request):  # most are small and come with their head: no timer for those
        body, num_bytes = await _read(request, max_bytes)
    else:
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body, num_bytes = await _read(request, max_bytes)
        except TimeoutError:
            raise DeadlineExceeded("The body did not arrive in time.", code="request_timeout") from None
    if num_bytes > max_bytes:
        raise PayloadTooLarge(f"The body is larger than {max_bytes} bytes (TIDEGATE_MAX_BODY_BYTES).")
    request.body = bytes(body)
    resume_reading(request)


def _has_arrived(request: Request) -> bool:
    """Whether reading all of the body will wait for nothing."""
    if not isinstance(request.stream, Http):
        return False
    http: Any = request.stream  # its types are narrower than what it holds
    is_chunked = http.request_body == "chunked"
    return not is_chunked and not http.expecting_continue and len(http.recv_buffer) >= http.request_bytes_left


async def _read(request: Request, max_bytes: int) -> tuple[bytearray, int]:
    """The body, up to max_bytes of it, and how much was read: more than max_bytes where it is larger."""
    body, num_bytes = bytearray(), 0
    while (data := await request.stream.read()) is not None:  # type: ignore[union-attr]
        num_bytes += len(data)
        if num_bytes > max_bytes:
            break  # whoever refuses it reads the rest away (discard_body)
        body += data
    return body, num_bytes


def resume_reading(request: Request) -> None:
    """Watch the connection again. Sanic stops reading at 64 KiB of unread body and starts again only when asked for
    more, so after a large last piece it would never see the client leave."""
    transport: Any = request.transport
    if transport is not None:
        transport.resume_reading()


def release(request: Request) -> None:
    """Let go of what Sanic keeps of a request until its answer ends, once it has been read: an answer may take
    minutes, and a worker holds thousands."""
    request.body = request.head = b""
    request.headers.clear()


async def discard_body(request: Request) -> None:
    """Read on after a refusal, bounded in bytes and time, so that the client reads our answer, not a reset."""
    num_bytes = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while num_bytes < LINGER_BYTES and (data := await request.stream.read()) is not None:  # type: ignore[union-attr]
                num_bytes += len(data)
    except (TimeoutError, SanicException):
        return


def json_body(request: Request, decoder: msgspec.json.Decoder[T]) -> T:
    """The body as `decoder`'s type.

    Raises: UnsupportedMediaType, InvalidRequest (code `invalid_json` or `invalid_value`, `param` names the place).
    """
    check_says_json(request)
    return decode(request.body, decoder)


def check_says_json(request: Request) -> None:
    """Raises: UnsupportedMediaType."""
    content_type = request.headers.getone("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        shown = content_type[:100] or "none"
        raise UnsupportedMediaType(f"The content type must be application/json, not {shown}.")


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    if not body:
        raise InvalidRequest("The body is empty; a JSON object was expected.", code="invalid_json")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not valid UTF-8.", code="invalid_json") from None


def convert(fields: dict[str, Any], kind: type[T]) -> T:
    """What another protocol says in `fields`, as `kind`. Raises: InvalidRequest, the same as `decode` does."""
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    text = str(error)
    match = _PLACE.search(text)
    place = match["place"] if match else None
    where = f" (at {place})" if place else ""
    if text.startswith(_PATTERN):
        text = "A text contains a NUL character"
    return InvalidRequest(f"{_PLACE.sub('', text)}{where}.", code="invalid_value", param=place)


def clean_text(text: str, param: str, *, max_chars: int) -> str:
    """A text field that may travel on. Raises: InvalidRequest for NULs and for texts over the limit."""
    if len(text) > max_chars:
        raise InvalidRequest(
            f"{param} has {len(text)} characters; the limit is {max_chars}.",
            code="text_too_long",
            param=param,
        )
    if "\x00" in text:
        raise InvalidRequest(f"{param} contains a NUL character.", code="invalid_value", param=param)
    return text
