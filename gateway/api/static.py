"""The chat page: files of the wheel, read once at start, served under a strict content security policy."""

from __future__ import annotations

import hashlib
from importlib import resources

from sanic import HTTPResponse, Request

from gateway.errors import NotFound

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Pages:
    """All page files in memory, each with its ETag."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for entry in resources.files("gateway.api").joinpath("pages").iterdir():
            suffix = "." + entry.name.rpartition(".")[2]
            if suffix in _TYPES:
                data = entry.read_bytes()
                etag = f'"{hashlib.sha256(data).hexdigest()[:16]}"'
                self._files[entry.name] = (data, _TYPES[suffix], etag)

    def serve(self, request: Request, name: str) -> HTTPResponse:
        """Raises: NotFound."""
        try:
            data, content_type, etag = self._files[name]
        except KeyError:
            raise NotFound("There is no such path.", code="unknown_path") from None
        headers = {**SECURITY_HEADERS, "etag": etag, "cache-control": "no-cache"}
        if request.headers.getone("if-none-match", None) == etag:
            return HTTPResponse(status=304, headers=headers)
        return HTTPResponse(data, content_type=content_type, headers=headers)
