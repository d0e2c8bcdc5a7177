"""What a refused client gets to keep its place with: signed, good for a while, for one tenant, tier and band.

Whoever cannot prove a place stands at the end like everybody: a ticket that is old, foreign or broken is not one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from typing import NamedTuple

import msgspec

TICKET_LIFE_S = 120.0
MAX_TICKET_CHARS = 400
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
        """What the next ticket keeps, when this place got a refusal that says a tag: it is read as before again."""
        return Place(tag + 1 if tag == self.tag else tag, self.id)


NO_PLACE = Place(-1, "")
_encode, _decoder = msgspec.json.Encoder().encode, msgspec.json.Decoder(Ticket)


class Tickets:
    """secret: shared by whoever must read each other's tickets."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret

    def issue(self, *, tier: str, band: int, tenant: str, tag: int, now_s: float, id: str = "") -> str:
        body = _encode(
            Ticket(id or secrets.token_hex(8), tier, band, tenant, tag, int(now_s + TICKET_LIFE_S))
        )
        return base64.urlsafe_b64encode(self._mac(body) + body).rstrip(b"=").decode()

    def read(self, text: str, *, tier: str, band: int, tenant: str, now_s: float) -> Place:
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
        is_ours = (ticket.tier, ticket.band, ticket.tenant) == (tier, band, tenant)
        if not is_ours or now_s > ticket.until:
            return NO_PLACE
        return Place(max(0, ticket.tag - 1), ticket.id)  # before whoever got the same tag since

    def _mac(self, body: bytes) -> bytes:
        return hmac.digest(self.secret, body, hashlib.sha256)[:_MAC_BYTES]
