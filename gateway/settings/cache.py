"""Answers that are remembered: how many, how long, how alike."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.formats import lives
from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    cache: bool = setting(
        True, "Whether answers are remembered and given again while their evidence stands (docs/cache.md)."
    )
    cache_mb: int = setting(
        64, "Memory for remembered answers in one gateway worker (MiB).", minimum=1, maximum=65_536
    )
    cache_tenant_percent: int = setting(
        50, "Share of that memory that one tenant may hold (percent).", minimum=1, maximum=100
    )
    cache_shared_answers: int = setting(
        20_000,
        "Remembered answers of one tenant in Redis; the oldest give way. 0 = none are kept there.",
        minimum=0,
        maximum=10_000_000,
    )
    cache_shared_mb: int = setting(
        64,
        "Memory in Redis for remembered answers of one tenant (MiB): a fourth of what our own Redis has. The oldest "
        "give way.",
        minimum=1,
        maximum=1_048_576,
    )
    cache_ttl_s: float = setting(
        86_400.0, "Longest life of a remembered answer (seconds).", minimum=1, maximum=2_592_000
    )
    cache_ttl_collections: str = setting(
        "",
        "Shorter lives, as COLLECTION=SECONDS,...: an answer from several collections lives as long as the shortest.",
    )
    cache_false_hits: float = setting(
        0.005,
        "Share of hits by similarity that may be wrong: near questions share an answer only where that holds with "
        "95 % confidence. 0 = only the same question gets a remembered answer.",
        minimum=0,
        maximum=0.1,
    )
    cache_weight: float = setting(
        0.1, "What a remembered answer counts, as a share of the tokens it first took.", minimum=0, maximum=1
    )
    cache_opt_out: str = setting(
        "", "Tenants of whom no answer is remembered, as ID,ID (`tidegate tenants list` shows the ids)."
    )

    @property
    def cache_opt_outs(self) -> frozenset[str]:
        """The tenants of whom nothing is kept."""
        return frozenset(name.strip() for name in self.cache_opt_out.split(",") if name.strip())

    @property
    def ttl_s_of_collections(self) -> dict[str, float]:
        """Life of an answer from a collection, by the collection's id."""
        return lives(self.cache_ttl_collections)
