"""The questions that were answered, by their vectors: which of one scope are nearest to a new one.

Scopes never meet: a scope has the tenant in it. Exact search, as a scope holds few questions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gateway.caching.key import Key

Vector = npt.NDArray[np.float32]

MAX_QUESTIONS = 4096  # of one scope; the oldest give way
_FIRST_ROWS = 16


class Neighbour(NamedTuple):
    """similarity: cosine, as both vectors have unit length."""

    digest: str
    similarity: float


class _Scope:
    def __init__(self, dim: int) -> None:
        self.rows = np.zeros((_FIRST_ROWS, dim), np.float32)
        self.digests: list[str] = []
        self.places: OrderedDict[str, int] = OrderedDict()  # oldest first

    @property
    def surplus(self) -> str:
        """The oldest question, where there is no room for one more; else empty."""
        return next(iter(self.places)) if len(self.digests) >= MAX_QUESTIONS else ""

    def add(self, digest: str, vector: Vector) -> None:
        at = self.places.pop(digest, None)
        if at is None:
            at = len(self.digests)
            self.digests.append(digest)
            if at == len(self.rows):
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
        self.rows[at] = vector
        self.places[digest] = at

    def remove(self, digest: str) -> None:
        """The last row takes the place of the one that goes."""
        at = self.places.pop(digest, None)
        if at is None:
            return
        last = self.digests.pop()
        if last != digest:
            self.rows[at] = self.rows[len(self.digests)]
            self.digests[at] = last
            self.places[last] = at


class SemanticIndex:
    def __init__(self) -> None:
        self._scopes: dict[str, _Scope] = {}
        self._where: dict[tuple[str, str], str] = {}  # tenant, digest -> scope

    def __len__(self) -> int:
        return len(self._where)

    def add(self, key: Key, vector: Vector) -> None:
        """vector: unit length; one of another length than the scope's is left out."""
        scope = self._scopes.get(key.scope)
        if scope is None:
            scope = self._scopes[key.scope] = _Scope(len(vector))
        if vector.shape != scope.rows.shape[1:] or not np.isfinite(vector).all():
            return
        if key.digest not in scope.places and scope.surplus:
            self.remove(key.tenant_id, scope.surplus)
        scope.add(key.digest, vector)
        self._where[key.tenant_id, key.digest] = key.scope

    def remove(self, tenant_id: str, digest: str) -> None:
        name = self._where.pop((tenant_id, digest), None)
        if name is None:
            return
        scope = self._scopes[name]
        scope.remove(digest)
        if not scope.digests:
            del self._scopes[name]

    def nearest(self, scope: str, vector: Vector, *, floor: float, limit: int = 4) -> list[Neighbour]:
        """Questions at least so similar, nearest first."""
        found = self._scopes.get(scope)
        if found is None or vector.shape != found.rows.shape[1:]:
            return []
        # einsum, not @: a matrix this small is done before BLAS has woken its threads, which others need
        similarities = np.einsum("ij,j->i", found.rows[: len(found.digests)], vector)
        best = np.argsort(-similarities)[:limit]
        return [
            Neighbour(found.digests[at], float(similarities[at])) for at in best if similarities[at] >= floor
        ]
