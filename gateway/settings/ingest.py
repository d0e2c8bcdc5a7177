"""How documents are cut and read."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class IngestSettings:
    chunk_chars: int = setting(900, "Aimed-at length of a chunk (characters).", minimum=100, maximum=20000)
    chunk_overlap_chars: int = setting(
        150, "Text shared by neighbouring chunks (characters).", minimum=0, maximum=5000
    )
    ingest_batch: int = setting(32, "Chunks embedded in one call while ingesting.", minimum=1, maximum=512)
    ingest_max_pages: int = setting(
        2000, "Most pages of a PDF that is read; a longer one fails.", minimum=1, maximum=100_000
    )
