"""What a client that is sent away gets to keep its place with: signed, good for a while, for one tenant, tier and band.

Whoever cannot prove a place stands at the end like everybody: a ticket that is old, foreign or broken is not one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import NamedTuple

import msgspec

TICKET_LIFE_S = 120.0
MAX_TICKET_CHARS = 400
MAX_USED = 10_000  # tickets of which it is remembered; then the oldest go
_MAC_BYTES = 16


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """tag: the place, in its band's tokens. until: unix seconds."""

    id: str
    tier: str
    band: int
    tenant: str
    tag: int
    until: int


class Place(NamedTuple):
    tag: int
    id: str

    def kept(self, tag: int) -> Place:
        """What the next ticket keeps, when this place got a refusal that says a tag: it is read as before again.

        A worse tag is a newcomer's: this ticket had been used, so there must be another one.
        """
        return Place(tag + 1 if tag == self.tag else tag, self.id if tag <= self.tag else "")

    def left(self, tag: int) -> Place:
        """What the next ticket keeps of one that stood in line: its own is used."""
        return self.kept(tag)._replace(id="")


NO_PLACE = Place(-1, "")
_encode, _decoder = msgspec.json.Encoder().encode, msgspec.json.Decoder(Ticket)


class Tickets:
    """Of one tier. secret: shared by whoever must read each other's tickets. clock: unix seconds, the same for all."""

    def __init__(self, tier: str, secret: bytes = b"", *, clock: Callable[[], float] = time.time) -> None:
        self._tier, self.secret, self.clock = tier, secret or secrets.token_bytes(16), clock

    def issue(self, band: int, tenant: str, place: Place) -> str:
        until = int(self.clock() + TICKET_LIFE_S)
        body = _encode(Ticket(place.id or secrets.token_hex(8), self._tier, band, tenant, place.tag, until))
        return base64.urlsafe_b64encode(self._mac(body) + body).rstrip(b"=").decode()

    def read(self, text: str, band: int, tenant: str) -> Place:
        """The place it keeps, or NO_PLACE."""
        if not text or len(text) > MAX_TICKET_CHARS:
            return NO_PLACE
        try:
            raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            mac, body = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
            if not hmac.compare_digest(mac, self._mac(body)):
                return NO_PLACE
            ticket = _decoder.decode(body)
        except (binascii.Error, ValueError, msgspec.DecodeError):
            return NO_PLACE
        is_ours = (ticket.tier, ticket.band, ticket.tenant) == (self._tier, band, tenant)
        if not is_ours or self.clock() > ticket.until:
            return NO_PLACE
        return Place(max(0, ticket.tag - 1), ticket.id)  # before whoever got the same tag since

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self.secret, body, hashlib.sha256)[:_MAC_BYTES]


class UsedTickets:
    """Each is good for one place, not for one after the other. clock: seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}  # the first ends first

    def __contains__(self, id: str) -> bool:
        return self._until.get(id, 0.0) >= self._clock()

    def __len__(self) -> int:
        return len(self._until)

    def add(self, id: str) -> None:
        """id: "" for one that came without."""
        if not id:
            return
        now = self._clock()
        while self._until and (len(self._until) >= MAX_USED or self._until[next(iter(self._until))] < now):
            del self._until[next(iter(self._until))]
        self._until[id] = now + TICKET_LIFE_S

    def forget(self, id: str) -> None:
        """It comes again with the place that it has."""
        self._until.pop(id, None)
