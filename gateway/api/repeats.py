"""What bodies mean, remembered by their bytes: the same bytes from the same caller mean the same again.

A question that many ask, or one asks often, is decoded and checked once. Nothing is kept that depends on when it was
said; the caller is compared as an object, which the authenticator makes anew when rights may have changed.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

from gateway.types import Tenant

Meaning = TypeVar("Meaning")

MAX_KEPT = 512
MAX_BODY_BYTES = 2048  # of one that is kept: a long history is said once


class Repeats(Generic[Meaning]):
    """Bounded; the one that was not said for longest goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, bytes], tuple[Tenant, Meaning]] = OrderedDict()

    def find(self, tenant: Tenant, body: bytes) -> Meaning | None:
        if len(body) > MAX_BODY_BYTES:
            return None
        key = (tenant.tenant_id, tenant.key_id, body)
        kept = self._kept.get(key)
        if kept is None:
            return None
        if kept[0] is not tenant:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return kept[1]

    def keep(self, tenant: Tenant, body: bytes, meaning: Meaning) -> None:
        if len(body) > MAX_BODY_BYTES:
            return
        self._kept[tenant.tenant_id, tenant.key_id, body] = tenant, meaning
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
