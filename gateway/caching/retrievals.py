"""What searches found, so that a question without a remembered answer need not be searched for again.

Of one worker. A search is given again only while nothing has changed in its collections since: what would be found now
is what was found then. After a change, and in other collections or with other filters, it is searched for again, but
not embedded again: its vector is known. The tenant is part of the key, as it is part of every scope.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable

import msgspec

from gateway.caching.corpus_watch import CorpusWatch
from gateway.caching.local import LocalStore
from gateway.caching.shared import Purge
from gateway.caching.vectors import OVERHEAD_BYTES, Vector, vector_key
from gateway.ports import Retrieved
from gateway.types import Scope

MAX_AGE_S = 3600.0
VECTORS_SHARE = 0.1  # of the bytes, for vectors that outlive what was found by them
_OVERHEAD_BYTES = 1024  # of the objects, beyond their texts
_PASSAGE_BYTES = 700

_encode = msgspec.json.Encoder().encode


class _Found(msgspec.Struct, frozen=True):
    """since: monotonic seconds."""

    found: Retrieved
    since: float


class Retrievals:
    """max_bytes: of all; tenant_share: of that, for one tenant. count: told how each look ended: hit, miss or stale;
    count_vector: the same of vectors for a new search: hit or miss.

    clock: monotonic seconds.
    """

    def __init__(
        self,
        watch: CorpusWatch,
        *,
        max_bytes: int,
        tenant_share: float = 1.0,
        opted_out: frozenset[str] = frozenset(),
        count: Callable[[str], None] = lambda _: None,
        count_vector: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watch, self._opted_out, self._count, self._clock = watch, opted_out, count, clock
        self._count_vector = count_vector
        for_vectors = int(VECTORS_SHARE * max_bytes)
        self._store: LocalStore[_Found] = LocalStore(max_bytes - for_vectors, tenant_share)
        self._vectors: LocalStore[Vector] = LocalStore(for_vectors, tenant_share)

    @property
    def num_bytes(self) -> int:
        return self._store.num_bytes + self._vectors.num_bytes

    def __len__(self) -> int:
        return len(self._store)

    def get(self, text: str, scope: Scope) -> Retrieved | None:
        """What the search would find now, if that is known; its times are none."""
        key = _key(text, scope)
        kept = self._store.get(scope.tenant_id, key)
        if kept is None:
            self._count("miss")
            return None
        is_young = self._clock() - kept.since < MAX_AGE_S
        if not is_young or not self._watch.is_current(scope.tenant_id, scope.collections, kept.found.epoch):
            self._count("stale")
            return None
        self._count("hit")
        passages = list(kept.found.passages)
        return msgspec.structs.replace(kept.found, passages=passages, embed_ms=0.0, search_ms=0.0)

    def vector(self, text: str, scope: Scope) -> Vector | None:
        """The text's vector by the scope's embedder, for a search that has to be made."""
        known = self._vectors.get(scope.tenant_id, vector_key(scope.embedder, "query", text))
        self._count_vector("miss" if known is None else "hit")
        return known

    def keep(self, text: str, scope: Scope, found: Retrieved) -> None:
        if found.epoch < 0 or scope.tenant_id in self._opted_out:
            return
        num_bytes = _OVERHEAD_BYTES + len(text) + found.embedding.nbytes
        num_bytes += sum(_PASSAGE_BYTES + 2 * len(passage.text) for passage in found.passages)
        copied = msgspec.structs.replace(found, passages=list(found.passages))
        self._store.put(scope.tenant_id, _key(text, scope), _Found(copied, self._clock()), num_bytes)
        vector, key = found.embedding, vector_key(scope.embedder, "query", text)
        self._vectors.put(scope.tenant_id, key, vector, OVERHEAD_BYTES + vector.nbytes)

    def forget(self, purge: Purge) -> int:
        """Of a tenant, whatever else is meant: a search is made again soon enough. Returns how many."""
        gone = [key for key, _ in self._store.entries(purge.tenant_id)]
        for key in gone:
            self._store.pop(purge.tenant_id, key)
        for key in [key for key, _ in self._vectors.entries(purge.tenant_id)]:
            self._vectors.pop(purge.tenant_id, key)
        return len(gone)


def _key(text: str, scope: Scope) -> str:
    ordered = msgspec.structs.replace(scope, collections=sorted(set(scope.collections)))
    return hashlib.blake2b(_encode([text, ordered]), digest_size=16).hexdigest()
