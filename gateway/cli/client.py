"""A small client of the HTTP API: where it talks, with which key, and every failure as one sentence.

Owns address and key resolution, error mapping, list pages and server-sent events. Refuses to know commands
and their output.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from gateway.cli.terminal import CommandFailed, ExitCode, printable
from gateway.settings import Settings
from gateway.supervise.instance import is_running, read_instance

KEY_VARIABLE = "TG_API_KEY"
ANY_HOST = ("localhost", "0.0.0.0", "::")  # noqa: S104  addresses to listen on, not to call
CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 60.0  # the service speaks at least every 15 s while it streams
PAGE_ITEMS = 100
MAX_EVENT_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Target:
    """Base URL without a trailing slash, and the key to send ("" = none). is_direct: no proxy stands between."""

    url: str
    key: str = field(default="", repr=False)
    is_direct: bool = False


def resolve_target(
    settings: Settings, url: str | None, key: str | None, environ: Mapping[str, str] | None = None
) -> Target:
    """--url > running instance > TIDEGATE_PORT; --key > TG_API_KEY > development key > none.

    The development key opens the service of this var folder only, so it is never sent to another machine.
    Raises: CommandFailed for an address that is not http(s).
    """
    environ = os.environ if environ is None else environ
    address = (url or _instance_url(settings) or f"http://127.0.0.1:{settings.port}").rstrip("/")
    parts = _split(address)
    if parts is None:
        raise CommandFailed(f"--url {address!r} is not an http:// or https:// address.", ExitCode.USAGE)
    chosen = key or environ.get(KEY_VARIABLE, "")
    if not chosen and (url is None or is_loopback(parts)):
        chosen = _development_key(settings)
    if not chosen.isascii() or not chosen.isprintable():
        raise CommandFailed(
            f"The key from --key or {KEY_VARIABLE} holds characters no key has.", ExitCode.USAGE
        )
    return Target(address.removesuffix("/v1"), chosen.strip())


def _instance_url(settings: Settings) -> str | None:
    # After a kill -9 the file is still there, and its port may be somebody else's by now.
    instance = (read_instance(settings) if is_running(settings) else None) or {}
    ports = instance.get("ports")
    port = ports.get("public") if isinstance(ports, dict) else None
    if not isinstance(port, int):
        return None
    host = str(instance.get("host") or ANY_HOST[0])
    host = "127.0.0.1" if host in ANY_HOST else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _split(address: str) -> str | None:
    """The host of an http(s) address; None for anything else."""
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises ValueError when it is not a number
        httpx.URL(address)
    except (ValueError, httpx.InvalidURL):
        return None
    return parts.hostname if parts.scheme in {"http", "https"} else None


def is_loopback(host: str) -> bool:
    """Whether the name or address can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _development_key(settings: Settings) -> str:
    try:
        return (settings.var / "secrets" / "dev-key").read_text("ascii").strip()
    except (OSError, UnicodeError):
        return ""


class ApiError(CommandFailed):
    """The service answered, and the answer is no."""

    def __init__(
        self, message: str, *, status: int, code: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


def explain_answer(url: str, status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """One sentence for an answer that is not 2xx."""
    message, code = _error_object(body)
    retry_after_s = _seconds(headers.get("retry-after"))
    if status == 401:
        message = f"{url} wants a valid key: give one with --key or {KEY_VARIABLE}."
    elif not message:
        text = printable(body[:200].decode("utf-8", "replace")).strip().split("\n")[0]
        message = f"{url} answered {status}" + (f": {text}" if text else ".")
    if retry_after_s is not None:
        message = f"{message.rstrip('.')}. Try again in {retry_after_s:g} s."
    return ApiError(message, status=status, code=code, retry_after_s=retry_after_s)


def _error_object(body: bytes) -> tuple[str, str]:
    try:
        error = json.loads(body)["error"]
        return printable(str(error["message"])), str(error.get("code") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", ""


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None  # an HTTP date: we never send one


def explain_failure(url: str, error: httpx.HTTPError) -> CommandFailed:
    """One sentence for a call that got no whole answer."""
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return CommandFailed(
            f"No tidegate answers at {url}: start one with `tidegate up`, or name another with --url.",
            ExitCode.NOT_RUNNING,
        )
    if isinstance(error, httpx.TimeoutException):
        return CommandFailed(
            f"{url} fell silent for {SILENCE_TIMEOUT_S:g} s; `tidegate status` shows its state."
        )
    if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
        return CommandFailed(f"The connection to {url} broke before the answer was whole.")
    return CommandFailed(f"The call to {url} failed: {type(error).__name__}.")


@dataclass(frozen=True)
class SseEvent:
    data: str
    event: str = "message"
    id: str = ""


class SseParser:
    """Server-sent events from bytes that may be cut anywhere. Comments only prove that the line is alive.

    Works on bytes because text splitters also break at U+2028 and friends, which JSON may hold as they are.
    Raises: ValueError when one event exceeds MAX_EVENT_BYTES.
    Source: WHATWG HTML, "Interpreting an event stream".
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []
        self._num_bytes = 0
        self._event = ""
        self._id = ""
        self._is_first = True

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Events that this chunk completed, in order."""
        text = self._rest + chunk
        if len(text) + self._num_bytes > MAX_EVENT_BYTES:
            raise ValueError("event too long")
        # a \r at the end may be half of \r\n
        held = b"\r" if text.endswith(b"\r") else b""
        lines = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop() + held
        events = []
        for line in lines:
            event = self._take(line)
            if event:
                events.append(event)
        return events

    def _take(self, line: bytes) -> SseEvent | None:
        if self._is_first:
            line, self._is_first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if name == b"data":
            self._data.append(text)
            self._num_bytes += len(line)
        elif name == b"event":
            self._event = text
        elif name == b"id" and "\0" not in text:
            self._id = text
        return None

    def _dispatch(self) -> SseEvent | None:
        data, event = self._data, self._event
        self._data, self._event, self._num_bytes = [], "", 0
        return SseEvent("\n".join(data), event or "message", self._id) if data else None


class Api:
    """One service over HTTP. Every method raises CommandFailed (ApiError when the service said no)."""

    def __init__(self, target: Target) -> None:
        self.url = target.url
        headers = {"authorization": f"Bearer {target.key}"} if target.key else {}
        self._http = httpx.AsyncClient(
            base_url=target.url,
            headers=headers,
            timeout=httpx.Timeout(SILENCE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            # a proxy cannot reach our loopback
            trust_env=not (target.is_direct or is_loopback(_split(target.url) or "")),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str, **params: str | int) -> Any:
        return await self.call("GET", path, params=params)

    async def post(self, path: str, body: Any) -> Any:
        return await self.call("POST", path, json=body)

    async def delete(self, path: str) -> Any:
        return await self.call("DELETE", path)

    async def call(self, method: str, path: str, **content: Any) -> Any:
        """One request; the answer's JSON."""
        response = await self._request(method, path, **content)
        try:
            return response.json()
        except ValueError:
            raise CommandFailed(f"{self.url} is not a tidegate: it answered {path} without JSON.") from None

    async def text(self, path: str) -> str:
        """The body of a GET as it is. `path` may be a whole address."""
        return (await self._request("GET", path)).text

    async def _request(self, method: str, path: str, **content: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, path, **content)
        except httpx.HTTPError as error:
            raise explain_failure(self.url, error) from error
        if not response.is_success:
            raise explain_answer(self.url, response.status_code, response.headers, response.content)
        return response

    async def pages(self, path: str) -> AsyncIterator[dict[str, Any]]:
        """All items of a list, page by page."""
        params: dict[str, str | int] = {"limit": PAGE_ITEMS}
        while True:
            page = await self.get(path, **params)
            items = page.get("data", []) if isinstance(page, dict) else []
            for item in items:
                yield item
            if not items or not page.get("has_more") or items[-1]["id"] == params.get("after"):
                return
            params["after"] = items[-1]["id"]

    @asynccontextmanager
    async def stream(self, path: str, body: Any) -> AsyncIterator[AsyncIterator[SseEvent]]:
        """Server-sent events of one POST. Leaving the context closes the connection, and so cancels the work."""
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if not response.is_success:
                    content = await response.aread()
                    raise explain_answer(self.url, response.status_code, response.headers, content)
                yield self._events(response)
        except httpx.HTTPError as error:
            raise explain_failure(self.url, error) from error

    async def _events(self, response: httpx.Response) -> AsyncIterator[SseEvent]:
        parser = SseParser()
        async with contextlib.aclosing(response.aiter_bytes()) as chunks:  # type: ignore[type-var]
            async for chunk in chunks:
                try:
                    events = parser.feed(chunk)
                except ValueError as error:
                    raise CommandFailed(f"{self.url} sent an event that cannot be read: {error}.") from None
                for event in events:
                    yield event


async def collection_ids(api: Api, wanted: list[str] | None) -> list[str]:
    """Ids of the collections named (by name or id); all of the caller's when none is named.

    Raises: CommandFailed (usage) for a name that does not exist or is not unique.
    """
    known = [(str(item["id"]), str(item.get("name") or "")) async for item in api.pages("/v1/vector_stores")]
    if not wanted:
        return [identifier for identifier, _ in known]
    return list(dict.fromkeys(_find(known, word) for word in wanted))


def find_collection(known: list[tuple[str, str]], wanted: str) -> str | None:
    """The id of the one collection with this id or name; None when there is none.

    Raises: CommandFailed (usage) when the name is not unique.
    """
    ids = [identifier for identifier, name in known if wanted == identifier]
    ids = ids or [identifier for identifier, name in known if wanted == name]
    if len(ids) > 1:
        raise CommandFailed(
            f"--collection {wanted!r} names several collections; give one of the ids {', '.join(ids)}.",
            ExitCode.USAGE,
        )
    return ids[0] if ids else None


def _find(known: list[tuple[str, str]], wanted: str) -> str:
    found = find_collection(known, wanted)
    if found is None:
        names = ", ".join(sorted(name or identifier for identifier, name in known)[:20])
        there = f"there are: {names}" if names else "there are none yet, `tidegate ingest PATH` makes one"
        raise CommandFailed(f"--collection {wanted!r} does not exist; {there}.", ExitCode.USAGE)
    return found
