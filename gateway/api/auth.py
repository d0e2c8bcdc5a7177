"""Who calls: API keys by hash, with a bounded in-process cache in front of SQL; anonymous access from loopback.

A revoked key stops working at once where the `tidegate:keys` message arrives and after KEY_TTL_S at the latest.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from sanic import Request

from gateway.errors import Forbidden, Unauthenticated, UpstreamUnavailable
from gateway.settings import Settings
from gateway.storage import keys
from gateway.storage.database import Database
from gateway.storage.limits import tenant_limits
from gateway.storage.rights import with_rights
from gateway.types import Tenant

KEY_TTL_S = 30.0
UNKNOWN_TTL_S = 5.0
MAX_CACHED = 10_000
PEER_HEADER = "x-tidegate-peer"  # set by Envoy, overwriting the client's; our own port is loopback only
_KEY_SHAPE = re.compile(r"tg-[A-Za-z0-9_-]{16,200}\Z")
_LOOPBACK_HOST = re.compile(r"(localhost|127(?:\.\d{1,3}){3}|\[::1\])(:\d+)?\Z", re.IGNORECASE)
_ANONYMOUS = Tenant(keys.DEFAULT_TENANT)
_ANONYMOUS_ENTRY = ""  # in the cache, where a key has its hash


class Caller(NamedTuple):
    """What a door knows of who calls. peer: address of the other end. None = the caller said no such thing.

    host: the name by which the caller reached us. own_origin: host and port of pages that may speak without a key.
    """

    authorization: str | None
    peer: str
    host: str
    own_origin: str | None = None
    origin: str | None = None
    fetch_site: str = "none"

    @property
    def is_local(self) -> bool:
        """Whether the caller is on this machine."""
        try:
            return ipaddress.ip_address(self.peer).is_loopback
        except ValueError:
            return False


def http_caller(request: Request) -> Caller:
    """The peer is the one that Envoy saw, or ours where no Envoy is in front."""
    headers = request.headers
    host = headers.getone("host", "")
    return Caller(
        authorization=headers.getone("authorization", None),
        peer=headers.getone(PEER_HEADER, request.ip),
        host=host,
        own_origin=host,
        origin=headers.getone("origin", None),
        fetch_site=headers.getone("sec-fetch-site", "none"),
    )


class Authenticator:
    """Finds the tenant of a caller."""

    def __init__(
        self, settings: Settings, database: Database, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_to_loopback = settings.auth == "development"
        self._database = database
        self._clock = clock
        self._generation = 0
        self._cache: dict[str, tuple[float, Tenant | None]] = {}

    async def tenant(self, caller: Caller) -> Tenant:
        """The caller's tenant.

        Raises: Unauthenticated (no key, bad key), Forbidden (anonymous call that a web page of another origin made).
        """
        if caller.authorization is None:
            self._check_anonymous(caller)
            return await self._default_tenant()
        scheme, _, key = caller.authorization.partition(" ")
        if scheme.lower() != "bearer" or not _KEY_SHAPE.match(key.strip()):
            raise Unauthenticated("The Authorization header does not hold a tidegate key (Bearer tg-…).")
        found = await self._find(keys.hash_key(key.strip()))
        if found is None:
            raise Unauthenticated("The API key is unknown or revoked.")
        return found

    async def admin(self, caller: Caller) -> Tenant:
        """As `tenant`, for admin routes. Raises also: Forbidden without an admin key."""
        tenant = await self.tenant(caller)
        if not tenant.is_admin:
            raise Forbidden("This route needs an admin key (`tidegate keys create --admin`).")
        return tenant

    def forget_all(self) -> None:
        """Drop what is cached: a key was made or revoked somewhere."""
        self._generation += 1
        self._cache.clear()

    async def _find(self, key_hash: str) -> Tenant | None:
        now = self._clock()
        cached = self._cache.get(key_hash)
        if cached is not None and cached[0] > now:
            return cached[1]
        generation = self._generation
        found = await asyncio.to_thread(self._look_up, key_hash)
        if generation != self._generation:  # what was read may be older than the change
            return found
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[key_hash] = (now + (KEY_TTL_S if found else UNKNOWN_TTL_S), found)
        return found

    def _look_up(self, key_hash: str) -> Tenant | None:
        with self._database.read() as conn:
            if key_hash == _ANONYMOUS_ENTRY:
                limits = tenant_limits(conn, keys.DEFAULT_TENANT)
                return with_rights(conn, Tenant(keys.DEFAULT_TENANT, limits=limits))
            found = keys.find_key(conn, key_hash)
            return with_rights(conn, found) if found else None

    async def _default_tenant(self) -> Tenant:
        """With its limits and rights; a development start needs no database to let its own machine in."""
        try:
            return await self._find(_ANONYMOUS_ENTRY) or _ANONYMOUS
        except UpstreamUnavailable:
            return _ANONYMOUS

    def _check_anonymous(self, caller: Caller) -> None:
        """Raises: Unauthenticated, Forbidden."""
        if not (self._open_to_loopback and caller.is_local):
            raise Unauthenticated("An API key is needed: send it as `Authorization: Bearer tg-…`.")
        # A web page of another site, or a name that was rebound to loopback, must not speak for the person here.
        foreign_origin = caller.origin is not None and caller.origin.partition("://")[2] != caller.own_origin
        cross_site = caller.fetch_site not in {"none", "same-origin"}
        if not _LOOPBACK_HOST.match(caller.host) or foreign_origin or cross_site:
            raise Forbidden("Without an API key only pages and programs of this machine may call.")
