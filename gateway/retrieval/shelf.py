"""One collection: its files and, for each embedder, a table of vectors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from gateway.retrieval.files import Files
from gateway.retrieval.table import Table


@dataclass(frozen=True)
class Shelf:
    """tables: by embedder."""

    files: Files = field(default_factory=Files)
    tables: Mapping[str, Table] = field(default_factory=dict)


Tenants = Mapping[str, Mapping[str, Shelf]]  # tenant -> collection -> shelf
