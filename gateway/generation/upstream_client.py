"""Streams one tier's chat completions from its server: connections, timeouts, bounds. No URL ever comes from a request.

The key is a header of the client and is shown nowhere: not in logs, not in errors, not in a repr.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator

import httpx

from gateway import __version__
from gateway.errors import TidegateError, UpstreamOverloaded
from gateway.generation.upstream_wire import (
    DONE,
    Chunk,
    EventReader,
    away,
    chunk_of,
    malformed,
    refusal,
    too_late,
)
from gateway.tier_config import UpstreamTier

# Servers close idle connections, uvicorn after 5 s; one that is just being closed must not be taken.
IDLE_S = 4.0
WRITE_S = 10.0
MAX_REFUSAL_BYTES = 64 * 1024
BYTES_A_TOKEN = 4096  # of the stream for each token asked for: far beyond what any server needs
MIN_BYTES = 4 * 2**20
LAST_BYTES_S = 0.05  # after [DONE], for the end of the body: with it the connection can be used again


class UpstreamClient:
    """Connections to one server, as many as the tier has slots. Close it at the end."""

    def __init__(self, tier: UpstreamTier, key: str = "") -> None:
        self._tier, self._key = tier, key
        self._url = f"{tier.base_url}/chat/completions"
        headers = {
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",  # nothing is unpacked, so nothing can unpack to gigabytes
            "user-agent": f"tidegate/{__version__}",
        }
        if key:
            headers["authorization"] = f"Bearer {key}"
        self._http = httpx.AsyncClient(
            headers=headers,
            verify=_trust(tier),
            proxy=tier.proxy or None,
            trust_env=False,  # no proxy and no .netrc by way of the environment
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=tier.connect_s, pool=tier.connect_s, write=WRITE_S),
            limits=httpx.Limits(
                max_connections=tier.slots, max_keepalive_connections=tier.slots, keepalive_expiry=IDLE_S
            ),
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def stream(self, body: bytes, *, max_tokens: int, timeout_s: float) -> AsyncIterator[Chunk]:
        """The answer's chunks. Leaving the iterator closes the connection, which stops the work over there.

        Only waiting for the server counts as its time, not what is done with a chunk.
        Raises: UpstreamError and its subclasses, PromptTooLong.
        """
        try:
            patience = _Patience(self._tier, timeout_s)
            response = await self._opened(body, patience)
            try:
                async for chunk in self._chunks(response, patience, max_tokens):
                    yield chunk
            finally:
                await response.aclose()
        except TidegateError as error:
            if self._key:  # some servers repeat a key that they do not like
                error.detail = error.detail.replace(self._key, "***")
            raise

    async def _opened(self, body: bytes, patience: _Patience) -> httpx.Response:
        request = self._http.build_request("POST", self._url, content=body)
        try:
            response = await self._sent(request, patience)
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            # A kept connection that the server has just closed. Once, on another one.
            request = self._http.build_request("POST", self._url, content=body)
            try:
                response = await self._sent(request, patience)
            except httpx.HTTPError as error:
                raise away(self._tier.name, _named(error)) from error
        if response.status_code == httpx.codes.OK:
            kind = response.headers.get("content-type", "")
            if kind.startswith("text/event-stream") and "content-encoding" not in response.headers:
                return response
            await response.aclose()
            raise malformed(f"the content type is {kind[:100]!r}")
        try:
            refused = refusal(
                self._tier.name, response.status_code, response.headers, await self._words(response, patience)
            )
        finally:
            await response.aclose()
        raise refused

    async def _sent(self, request: httpx.Request, patience: _Patience) -> httpx.Response:
        """Raises: UpstreamUnavailable, UpstreamTimeout, and httpx's own for a connection that broke off."""
        try:
            async with patience.waiting():
                return await self._http.send(request, stream=True)
        except TimeoutError:
            raise too_late(self._tier.name, "no answer") from None
        except httpx.PoolTimeout as error:  # our permits are as many as its connections
            raise UpstreamOverloaded(
                f"The tier {self._tier.name!r} has no room at this moment.", detail="upstream: no connection"
            ) from error
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            raise
        except httpx.HTTPError as error:
            raise away(self._tier.name, _named(error)) from error

    async def _words(self, response: httpx.Response, patience: _Patience) -> bytes:
        """The beginning of a refusal; what has come of it when it breaks off."""
        words = b""
        try:
            async with patience.waiting():
                async for piece in response.aiter_raw():
                    words += piece
                    if len(words) > MAX_REFUSAL_BYTES:
                        break
        except (TimeoutError, httpx.HTTPError):
            pass
        return words[:MAX_REFUSAL_BYTES]

    async def _chunks(
        self, response: httpx.Response, patience: _Patience, max_tokens: int
    ) -> AsyncIterator[Chunk]:
        reader, pieces = EventReader(), response.aiter_raw()
        left_bytes = max(MIN_BYTES, max_tokens * BYTES_A_TOKEN)
        while piece := await self._next(pieces, patience):
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise malformed("far more bytes than were asked for")
            for data in reader.feed(piece):
                if data == DONE:
                    await _read_out(pieces)
                    return
                chunk = chunk_of(data, self._tier.name)
                if chunk.is_token or chunk.finish_reason or chunk.usage:
                    patience.renew()
                yield chunk

    async def _next(self, pieces: AsyncIterator[bytes], patience: _Patience) -> bytes:
        """b"" at the end."""
        try:
            async with patience.waiting():
                return await anext(pieces, b"")
        except TimeoutError:
            raise too_late(self._tier.name, "no token") from None
        except httpx.RemoteProtocolError as error:
            raise malformed(f"the answer ended early ({_named(error)})") from error
        except httpx.HTTPError as error:
            raise away(self._tier.name, _named(error)) from error


class _Patience:
    """How long the server may still let us wait: for the first token, then for each next one, within the request's.

    A comment in the stream is no token.
    """

    def __init__(self, tier: UpstreamTier, timeout_s: float) -> None:
        self._left_s, self._next_s = tier.first_token_s, tier.between_tokens_s
        self._end = time.monotonic() + timeout_s
        self._began = 0.0
        self._timer: asyncio.Timeout

    def renew(self) -> None:
        self._left_s = self._next_s

    def waiting(self) -> _Patience:
        return self

    async def __aenter__(self) -> None:
        self._began = time.monotonic()
        self._timer = asyncio.timeout(max(0.0, min(self._left_s, self._end - self._began)))
        await self._timer.__aenter__()

    async def __aexit__(self, *raised: object) -> None:
        self._left_s -= time.monotonic() - self._began
        await self._timer.__aexit__(*raised)  # type: ignore[arg-type]


async def _read_out(pieces: AsyncIterator[bytes]) -> None:
    """What follows [DONE] is nobody's business; a server that takes long over it loses the connection."""
    try:
        async with asyncio.timeout(LAST_BYTES_S):
            while await anext(pieces, b""):
                pass
    except (TimeoutError, httpx.HTTPError):
        pass


def _trust(tier: UpstreamTier) -> ssl.SSLContext | bool:
    """Certificates that are believed: the operator's, else SSL_CERT_FILE's, else those that come with certifi."""
    if not tier.base_url.startswith("https"):
        return False
    if tier.ca_file:
        return ssl.create_default_context(cafile=tier.ca_file)
    return httpx.create_ssl_context()


def _named(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__}: {error}"
