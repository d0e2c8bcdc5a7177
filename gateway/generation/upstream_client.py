"""Streams one tier's chat completions from its server: timeouts, bounds, what a failure means.

No URL ever comes from a request. The key is a header of the client and is shown nowhere: not in logs, not in errors,
not in a repr.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import certifi
from aiohttp import ClientResponse

from gateway import __version__
from gateway.errors import TidegateError
from gateway.generation.upstream_wire import Chunk, ChunkReader, away, malformed, refusal, too_late
from gateway.tier_config import UpstreamTier

# Servers close idle connections, uvicorn after 5 s; one that is just being closed must not be taken.
IDLE_S = 4.0
LAST_BYTES_S = 0.05  # after [DONE], for the end of the body: with it the connection can be used again
HIGH_WATER_BYTES = 128 * 1024  # that have come and wait to be taken: above it the server has to wait
MAX_HEADER_BYTES = 64 * 1024
MAX_REFUSAL_BYTES = 64 * 1024
BYTES_A_TOKEN = 4096  # of the stream for each token asked for: far beyond what any server needs
MIN_BYTES = 4 * 2**20
OK = 200


class UpstreamClient:
    """Connections to one server; their number is bounded by the tier's slots, which whoever streams holds one of. Close
    it at the end."""

    def __init__(self, tier: UpstreamTier, key: str = "") -> None:
        self._tier, self._key = tier, key
        self._url = f"{tier.base_url}/chat/completions"
        self._trust = _trust(tier)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by whether connections are used again
        self._ending: set[asyncio.Task[None]] = (
            set()
        )  # answers that are whole, but for the end of their bodies

    async def close(self) -> None:
        await asyncio.gather(*self._ending)
        for session in self._sessions.values():
            await session.close()

    async def stream(self, body: bytes, *, max_tokens: int, timeout_s: float) -> AsyncIterator[list[Chunk]]:
        """The answer's chunks, at once all that have come. Leaving the iterator closes the connection, which stops the
        work over there.

        Only waiting for the server counts as its time, not what is done with a chunk.
        Raises: UpstreamError and its subclasses, PromptTooLong.
        """
        patience = _Patience(self._tier, timeout_s)
        reader = ChunkReader(self._tier.name, max(MIN_BYTES, max_tokens * BYTES_A_TOKEN))
        response: ClientResponse | None = None
        try:
            response = await self._asked(body, patience)
            await self._check(response, patience)
            while not reader.is_done and (data := await self._next(response, patience)):
                chunks = reader.feed(data)
                if any(chunk.shows_work for chunk in chunks):
                    patience.renew()
                if chunks:
                    yield chunks
                if reader.failure is not None:
                    raise reader.failure
        except TidegateError as error:
            if self._key:  # some servers repeat a key that they do not like
                error.detail = error.detail.replace(self._key, "***")
            raise
        finally:
            if response is not None:
                self._let_go(response, is_whole=reader.is_done)

    def _let_go(self, response: ClientResponse, *, is_whole: bool) -> None:
        """Nobody reads on: the connection is used again where its answer ends soon, and closed where it does not."""
        if not is_whole or response.content.at_eof():
            response.close()  # does nothing to a connection whose answer was read to its end
            return
        task = asyncio.get_running_loop().create_task(_read_out(response))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _asked(self, body: bytes, patience: _Patience) -> ClientResponse:
        """An answer's head. Raises: UpstreamError and its subclasses."""
        try:
            async with patience.waiting():
                try:
                    return await self._post(body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                    if not _is_before_any_answer(error):
                        raise
                    # A kept connection that the server has just closed, as they do with idle ones. Once, on a new one.
                    return await self._post(body, is_kept=False)
        except aiohttp.ConnectionTimeoutError as error:  # is a TimeoutError too
            raise away(self._tier.name, f"no connection within {self._tier.connect_s:g} s") from error
        except TimeoutError:
            raise too_late(self._tier.name, "no answer", is_own=patience.is_own) from None
        except aiohttp.ClientHttpProxyError as error:
            raise away(self._tier.name, f"the proxy answered {error.status}") from error
        except (aiohttp.ClientResponseError, aiohttp.ClientPayloadError) as error:
            raise malformed(_named(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise away(self._tier.name, _named(error)) from error

    async def _post(self, body: bytes, *, is_kept: bool = True) -> ClientResponse:
        """is_kept: a connection that has served before will do."""
        session = self._sessions.get(is_kept)
        if session is None:  # not before the first call: a session belongs to a loop
            session = self._sessions[is_kept] = _session(self._tier, self._trust, is_kept=is_kept)
        # The key is no header of the session: a proxy would be shown those.
        headers = {"authorization": f"Bearer {self._key}"} if self._key else None
        proxy = self._tier.proxy or None
        return await session.post(self._url, data=body, headers=headers, proxy=proxy, allow_redirects=False)

    async def _check(self, response: ClientResponse, patience: _Patience) -> None:
        """Raises: what it means when the answer is no stream of events."""
        if response.status != OK:
            words = await self._words(response, patience)
            raise refusal(self._tier.name, response.status, response.headers, words)
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream") or "content-encoding" in response.headers:
            raise malformed(f"the content type is {kind[:100]!r}")

    async def _words(self, response: ClientResponse, patience: _Patience) -> bytes:
        """The beginning of a refusal; what has come of it when it breaks off."""
        words = b""
        try:
            async with patience.waiting():
                while len(words) <= MAX_REFUSAL_BYTES and (piece := await response.content.readany()):
                    words += piece
        except (TimeoutError, aiohttp.ClientError):
            pass
        return words[:MAX_REFUSAL_BYTES]

    async def _next(self, response: ClientResponse, patience: _Patience) -> bytes:
        """All that has come, after a wait if that is nothing; b"" at the end."""
        try:
            if response.content.total_bytes and (data := response.content.read_nowait()):
                return data
            async with patience.waiting():
                return await response.content.readany()
        except TimeoutError:
            raise too_late(self._tier.name, "no token", is_own=patience.is_own) from None
        except aiohttp.ClientPayloadError as error:
            if isinstance(error.__cause__, ConnectionError):
                raise away(self._tier.name, _named(error)) from error
            raise malformed(f"the answer ended early ({_named(error)})") from error
        except aiohttp.ClientError as error:
            raise away(self._tier.name, _named(error)) from error


class _Patience:
    """How long the server may still let us wait: for the first token, then for each next one, within the request's.

    A comment in the stream is no token. is_own: the request's time bounds the wait that was begun last.
    """

    def __init__(self, tier: UpstreamTier, timeout_s: float) -> None:
        self._left_s, self._next_s = tier.first_token_s, tier.between_tokens_s
        self._end = time.monotonic() + timeout_s
        self._began = 0.0
        self.is_own = False
        self._timer: asyncio.Timeout

    def renew(self) -> None:
        self._left_s = self._next_s

    def waiting(self) -> _Patience:
        return self

    async def __aenter__(self) -> None:
        self._began = time.monotonic()
        own_s = self._end - self._began
        self.is_own = own_s < self._left_s
        self._timer = asyncio.timeout(max(0.0, min(self._left_s, own_s)))
        await self._timer.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        self._left_s -= time.monotonic() - self._began
        await self._timer.__aexit__(*raised)  # type: ignore[arg-type]


def _session(tier: UpstreamTier, trust: ssl.SSLContext | bool, *, is_kept: bool) -> aiohttp.ClientSession:
    kept: dict[str, Any] = {"keepalive_timeout": IDLE_S} if is_kept else {"force_close": True}
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream",
        "accept-encoding": "identity",  # nothing is unpacked, so nothing can unpack to gigabytes
        "user-agent": f"tidegate/{__version__}",
    }
    return aiohttp.ClientSession(
        # No bound and no timeout of its own: slots bound it, and whoever waits has a patience.
        connector=aiohttp.TCPConnector(limit=0, ssl=trust, **kept),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=tier.connect_s),
        auto_decompress=False,
        trust_env=False,  # no proxy and no .netrc by way of the environment
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=HIGH_WATER_BYTES // 2,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
    )


def _is_before_any_answer(error: aiohttp.ClientConnectionError) -> bool:
    """Whether the connection was there, and ended without a byte."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the part that came
    return not isinstance(error, aiohttp.ClientConnectorError)


async def _read_out(response: ClientResponse) -> None:
    """What follows [DONE] is nobody's business; a server that takes long over it loses the connection."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(LAST_BYTES_S):
            while await response.content.readany():
                pass
    response.close()


def _trust(tier: UpstreamTier) -> ssl.SSLContext | bool:
    """Certificates that are believed: the operator's, else SSL_CERT_FILE's, else those that come with certifi."""
    if not tier.base_url.startswith("https"):
        return True
    return ssl.create_default_context(
        cafile=tier.ca_file or os.environ.get("SSL_CERT_FILE") or certifi.where()
    )


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
