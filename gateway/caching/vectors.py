"""Vectors of texts that were embedded before, by content and model: what was computed once is given again.

Of one worker. A text's vector is the same for everybody, but each tenant meets only its own: how fast a reply comes
must not tell one tenant what another has sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gateway.caching.local import LocalStore
from gateway.caching.shared import Purge
from gateway.ports import QueuedEmbedder
from gateway.types import DEFAULT_EMBEDDER

Vector = npt.NDArray[np.float32]

OVERHEAD_BYTES = 512  # of a vector's objects


class RememberedVectors:
    """An Embedder's vectors. count: told how many were there (hit) and were not (miss), by (result, number)."""

    def __init__(
        self,
        embedder: QueuedEmbedder,
        *,
        max_bytes: int,
        tenant_share: float = 1.0,
        opted_out: frozenset[str] = frozenset(),
        count: Callable[[str, int], None] = lambda _result, _number: None,
    ) -> None:
        self._embedder, self._opted_out, self._count = embedder, opted_out, count
        self._store: LocalStore[Vector] = LocalStore(max_bytes, tenant_share)

    @property
    def num_bytes(self) -> int:
        return self._store.num_bytes

    def __len__(self) -> int:
        return len(self._store)

    async def embed(
        self,
        tenant_id: str,
        texts: Sequence[str],
        *,
        role: str,
        timeout_s: float,
        embedder: str = DEFAULT_EMBEDDER,
    ) -> npt.NDArray[np.float32]:
        """As Embedder.embed; only what is not known is computed, and a text that comes twice only once."""
        if tenant_id in self._opted_out:
            return await self._embedder.embed(
                texts, role=role, timeout_s=timeout_s, embedder=embedder, tenant=tenant_id
            )
        keys = [vector_key(embedder, role, text) for text in texts]
        known: dict[str, Vector] = {}
        missing: dict[str, str] = {}
        for key, text in zip(keys, texts, strict=True):
            vector = self._store.get(tenant_id, key) if key not in known and key not in missing else None
            if vector is not None:
                known[key] = vector
            elif key not in known:
                missing[key] = text
        self._count("hit", len(known))
        self._count("miss", len(missing))
        if missing:
            made = await self._embedder.embed(
                list(missing.values()), role=role, timeout_s=timeout_s, embedder=embedder, tenant=tenant_id
            )
            for key, row in zip(missing, made, strict=True):
                known[key] = row.copy()  # not a view, which would keep all the others
                self._store.put(tenant_id, key, known[key], OVERHEAD_BYTES + row.nbytes)
        return np.stack([known[key] for key in keys]) if keys else np.empty((0, 0), np.float32)

    def forget(self, purge: Purge) -> int:
        """Of a tenant; returns how many."""
        gone = [key for key, _ in self._store.entries(purge.tenant_id)]
        for key in gone:
            self._store.pop(purge.tenant_id, key)
        return len(gone)


def vector_key(embedder: str, role: str, text: str) -> str:
    """By content: equal exactly where the same model would make the same vector of it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (embedder, role, text):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()
