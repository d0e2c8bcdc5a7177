"""All remembered answers as one worker sees them: its own level, the shared one behind it, the questions by vector."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.caching.entry import Entry
from gateway.caching.key import Key
from gateway.caching.local import LocalStore
from gateway.caching.semantic import Neighbour, SemanticIndex, Vector
from gateway.caching.shared import Purge, SharedStore

_OVERHEAD_BYTES = 2048  # of an entry's objects, beyond its texts
_PASSAGE_BYTES = 1200  # and what receipts say of it


def _weight(entry: Entry) -> int:
    """About what an entry takes of memory (bytes)."""
    quoted = sum(len(passage.text) for passage in entry.passages)
    texts = (
        len(entry.text) + len(entry.question) + 2 * quoted
    )  # and once more as receipts tell them, once it is a hit
    return _OVERHEAD_BYTES + 2 * len(entry.vector) + 2 * texts + _PASSAGE_BYTES * len(entry.passages)


class Answers:
    """max_bytes: of the worker's own level. tenant_share: of that, for one tenant. wall: unix seconds."""

    def __init__(
        self,
        *,
        max_bytes: int,
        tenant_share: float = 1.0,
        shared: SharedStore | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._index = SemanticIndex()
        self._local: LocalStore[Entry] = LocalStore(max_bytes, tenant_share, self._index.remove)
        self._shared, self._wall = shared, wall
        self._asking: dict[Key, asyncio.Task[Entry | None]] = {}
        self.num_orders = 0  # to forget; what was read before one and comes after it may be meant by it

    @property
    def num_bytes(self) -> int:
        return self._local.num_bytes

    def __len__(self) -> int:
        return len(self._local)

    async def find(self, key: Key) -> Entry | None:
        """The answer to exactly that; waits for the shared level READ_LIMIT_S at most."""
        entry = self.held(key.tenant_id, key.digest)
        if entry is not None or self._shared is None:
            return entry
        asking, num_orders = self._asking.get(key), self.num_orders
        if asking is None:  # those who want the same wait for one reply
            asking = self._asking[key] = asyncio.get_running_loop().create_task(self._shared.get(key))
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        entry = await asyncio.shield(asking)
        if entry is None or self._wall() >= entry.expires or self.num_orders != num_orders:
            return None
        self.adopt(key, entry)
        return entry

    def held(self, tenant_id: str, digest: str) -> Entry | None:
        """In the worker's own level."""
        entry = self._local.get(tenant_id, digest)
        if entry is not None and self._wall() >= entry.expires:
            self._local.pop(tenant_id, digest)
            return None
        return entry

    def peek(self, tenant_id: str, digest: str) -> Entry | None:
        """In the worker's own level, without being asked for."""
        entry = self._local.peek(tenant_id, digest)
        return None if entry is None or self._wall() >= entry.expires else entry

    def nearest(self, scope: str, vector: Vector, floor: float) -> list[Neighbour]:
        return self._index.nearest(scope, vector, floor=floor)

    def keep(self, key: Key, entry: Entry) -> asyncio.Task[None] | None:
        """In both levels. Returns what writes to the shared one."""
        self.adopt(key, entry)
        return None if self._shared is None else self._shared.put(entry)

    def drop(self, key: Key) -> None:
        self._local.pop(key.tenant_id, key.digest)
        if self._shared is not None:
            self._shared.drop(key)

    def forget(self, purge: Purge) -> int:
        """In the worker's own level; returns how many."""
        self.num_orders += 1
        self._asking.clear()
        gone = [digest for digest, entry in self._local.entries(purge.tenant_id) if purge.means(entry)]
        for digest in gone:
            self._local.pop(purge.tenant_id, digest)
        return len(gone)

    async def settle(self) -> None:
        """Wait for what is being written to the shared level."""
        if self._shared is not None:
            await self._shared.settle()

    def adopt(self, key: Key, entry: Entry) -> None:
        """In the worker's own level."""
        self._local.put(key.tenant_id, key.digest, entry, _weight(entry))
        if entry.vector and self._local.holds(key.tenant_id, key.digest):
            self._index.add(key, entry.embedding())
