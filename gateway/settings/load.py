"""How much is worked on at once, who waits how long, and when answers get cheaper."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    retrieval_slots: int = setting(
        64, "Retrieve and embed calls that one gateway worker has in flight on Triton at once.", minimum=1
    )
    fast_slots: int = setting(
        8, "Requests of tier `fast` that one Triton replica works on at once.", minimum=1, maximum=10000
    )
    deep_slots: int = setting(
        4, "Requests of tier `deep` that one Triton replica works on at once.", minimum=1, maximum=10000
    )
    queue_max: int = setting(
        512,
        "Requests that may wait for a slot of one tier, over all workers; beyond it the one with the least right to a "
        "place is refused with 503.",
        minimum=0,
    )
    queue_max_mb: int = setting(
        64, "Text that may wait for a slot of one tier, over all workers (MiB).", minimum=1, maximum=65_536
    )
    queue_ttl_s: float = setting(
        30.0, "Longest wait for a slot (seconds) before the request is evicted.", minimum=0.01
    )
    headroom: float = setting(
        0.0,
        "Part of a tier's slots that a tenant with clearly more than an equal share leaves free for light ones, and of "
        "the retrievals at once; 0 = a light tenant may wait for a slot (docs/queue.md, docs/limits.md).",
        minimum=0,
        maximum=0.5,
    )
    preempt: bool = setting(
        True,
        "Whether an answer in the making gives its slot up for a tenant that has less than its share, and goes on "
        "later; only on tiers that can go on (docs/queue.md).",
    )
    adaptive_tiers: str = setting(
        "",
        "Tiers with fewer slots while their engine is slow to begin, as NAME,NAME; empty = always as many as "
        "configured (docs/queue.md).",
    )
    auto_tiers: str = setting(
        "",
        "Tiers that `auto` may choose among, as NAME,NAME; empty = those that quote. A tier that writes is chosen only "
        "if it is named here; see docs/degradation.md.",
    )
    ladder_eta_s: float = setting(
        5.0,
        "Expected wait for a slot (seconds) that counts as full pressure: from half of it on answers get cheaper, step "
        "by step; from four times it on requests are refused. 0 = waiting degrades nothing.",
        minimum=0,
        maximum=3600,
    )
    ladder_lag_s: float = setting(
        2.0,
        "Lag of a gateway worker's event loop (seconds) that counts as full pressure. 0 = lag degrades nothing.",
        minimum=0,
        maximum=60,
    )
    request_timeout_s: float = setting(120.0, "Deadline of a request that sets none (seconds).", minimum=0.1)
