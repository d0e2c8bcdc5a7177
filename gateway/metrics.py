"""Every metric tidegate exports, in one place. Names and units follow OpenTelemetry's GenAI conventions where they fit.

ttft = request received by the gateway -> first non-empty text. Buckets resolve the targets: 40 ms (`fast`),
150 ms (`deep`), and the seconds a queue may take.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.genai_metrics import GenAiMetrics, Series, TenantNames

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class TrialMetrics:
    """How each version of a tier's model does, on which side of a rollout."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.answers = Counter(
            "tidegate_version_answers",
            "Answers of a tier by its model's version and side of the rollout, and how they ended: ok, failed, or left "
            "(by the caller, or for lack of time).",
            ["tier", "version", "side", "result"],
            registry=registry,
        )
        self.first_text_s = Histogram(
            "tidegate_version_first_text_seconds",
            "A slot and the evidence at hand to first text, by the version of the model that wrote it.",
            ["tier", "version", "side"],
            buckets=_SECONDS,
            registry=registry,
        )


class _RequestMetrics:
    """Chat requests and what they took; streams; receipts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "tidegate_requests",
            "Chat requests by their one outcome.",
            ["outcome", "cause", "tier"],
            registry=registry,
        )
        self.http = Counter(
            "tidegate_http_responses",
            "HTTP responses by route and status.",
            ["route", "status"],
            registry=registry,
        )
        self.ttft_s = Histogram(
            "tidegate_time_to_first_token_seconds",
            "Request received to first text.",
            ["tier"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.total_s = Histogram(
            "tidegate_request_duration_seconds",
            "Request received to last byte.",
            ["tier"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.retrieve_s = Histogram(
            "tidegate_retrieve_seconds", "Embed and search.", buckets=_SECONDS, registry=registry
        )
        self.tokens = Counter(
            "tidegate_tokens", "Tokens by direction.", ["tier", "direction"], registry=registry
        )
        self.unsupported_citations = Counter(
            "tidegate_unsupported_citations",
            "Marks [n] of written answers that no passage bore out and that were taken out.",
            ["tier"],
            registry=registry,
        )
        self.slow_readers = Counter(
            "tidegate_slow_readers_cut",
            "Streams that were cut because a write waited TIDEGATE_SLOW_READER_S for their reader.",
            ["door"],
            registry=registry,
        )
        self.dropped_records = Counter(
            "tidegate_dropped_records", "Receipts lost because SQL was away too long.", registry=registry
        )
        self.handed_over = Counter(
            "tidegate_handed_over",
            "Streams that a drain had no time for, left for another worker to go on with.",
            registry=registry,
        )


class _QueueMetrics:
    """Slots of tiers, and the line in front of them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.inflight = Gauge("tidegate_inflight", "Requests holding a slot.", ["tier"], registry=registry)
        self.waiting = Gauge("tidegate_waiting", "Requests waiting for a slot.", ["tier"], registry=registry)
        self.queue_s = Histogram(
            "tidegate_queue_wait_seconds",
            "Wait for a slot.",
            ["tier"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.queue_eta_s = Gauge(
            "tidegate_queue_eta_seconds",
            "Expected wait for a slot of an interactive request that came now.",
            ["tier"],
            registry=registry,
        )
        self.queue_shared = Gauge(
            "tidegate_queue_shared",
            "1 while the queue of all workers is in force; 0 while this worker goes by its share, without Redis.",
            ["tier"],
            registry=registry,
        )
        self.slot_limit = Gauge(
            "tidegate_slots",
            "Slots of the tier, over all workers; of this worker alone while Redis is away.",
            ["tier"],
            registry=registry,
        )
        self.preempted = Counter(
            "tidegate_preempted",
            "Answers in the making whose slot was asked back for somebody else; they went on later.",
            ["tier", "priority"],
            registry=registry,
        )


class _TierMetrics:
    """Which tier answers, what it gives up under load, and tiers on other servers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tier_choices = Counter(
            "tidegate_tier_choices",
            "Requests by the tier that was taken and the reason that decided.",
            ["tier", "reason"],
            registry=registry,
        )
        self.degraded = Counter(
            "tidegate_degraded",
            "Answers (or refusals) that a step of the ladder changed.",
            ["step", "tier"],
            registry=registry,
        )
        self.ladder_level = Gauge(
            "tidegate_ladder_level",
            "Steps of the ladder that pressure has put in force (0 = none).",
            ["tier", "band"],
            registry=registry,
        )
        self.pressure = Gauge(
            "tidegate_pressure",
            "Pressure on a tier's line; 1 = as much as is promised to be borne.",
            ["tier", "band"],
            registry=registry,
        )
        self.fallbacks = Counter(
            "tidegate_fallbacks",
            "Requests that went on to another tier before the first token, by the cause.",
            ["tier", "cause", "instead"],
            registry=registry,
        )
        self.upstream_calls = Counter(
            "tidegate_upstream_calls",
            "Calls of tiers on other servers by how they ended: ok, left (by the caller), or the error's code.",
            ["tier", "result"],
            registry=registry,
        )
        self.circuit_open = Gauge(
            "tidegate_circuit_open",
            "Whether a tier's server is left alone (1), tried again (0.5) or used (0).",
            ["tier"],
            registry=registry,
        )


class _TenantMetrics:
    """Limits, and who asks how much."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.limited = Counter(
            "tidegate_limited",
            "Requests refused by a limit of their tenant or key.",
            ["limit", "scope"],
            registry=registry,
        )
        self.limit_calls = Counter(
            "tidegate_limit_calls",
            "Trips to Redis for limits, each for many tenants.",
            registry=registry,
        )
        self.limits_linked = Gauge(
            "tidegate_limits_linked",
            "1 while limits are shared through Redis, 0 while they go on from local shares.",
            registry=registry,
        )
        self.tenant_requests = Counter(
            "tidegate_tenant_requests",
            "Chat requests by tenant and outcome; tenants beyond the first ones are `other`.",
            ["tenant", "outcome"],
            registry=registry,
        )
        self.tenant_tokens = Counter(
            "tidegate_tenant_tokens",
            "Tokens by tenant, tier and direction; tenants beyond the first ones are `other`.",
            ["tenant", "tier", "direction"],
            registry=registry,
        )


class _CacheMetrics:
    """What the answer cache did, and how often it was wrong."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.cache_verdicts = Counter(
            "tidegate_cache_verdicts",
            "Requests by what the answer cache did: exact, semantic, joined, neighbour, miss, refresh, off.",
            ["verdict"],
            registry=registry,
        )
        self.cache_objections = Counter(
            "tidegate_cache_objections",
            "Near questions whose answer was not given, by the guard that objected; `evidence`: other passages.",
            ["guard"],
            registry=registry,
        )
        self.cache_stale = Counter(
            "tidegate_cache_stale",
            "Remembered answers that were dropped because retrieval found other evidence.",
            registry=registry,
        )
        self.cache_shared_calls = Counter(
            "tidegate_cache_shared_calls",
            "Calls to the cache in Redis by operation and result.",
            ["operation", "result"],
            registry=registry,
        )
        self.cache_flights = Counter(
            "tidegate_cache_flights",
            "Answers that were not remembered, by who made them: led (this worker, others may read), followed (another"
            " worker), taken_over (this one, as the other was lost), answered (it was there by then), alone (this one,"
            " without Redis).",
            ["role"],
            registry=registry,
        )
        self.cache_followers = Gauge(
            "tidegate_cache_followers",
            "Other workers that read answers which this one makes.",
            registry=registry,
        )
        self.cache_retrievals = Counter(
            "tidegate_cache_retrievals",
            "Searches by whether they were remembered: hit, miss, or stale (something has changed since).",
            ["result"],
            registry=registry,
        )
        self.cache_vectors = Counter(
            "tidegate_cache_vectors",
            "Texts that were to be embedded, by whether their vectors were remembered: hit or miss.",
            ["result"],
            registry=registry,
        )
        self.cache_entries = Gauge(
            "tidegate_cache_entries", "Answers in this worker's own memory.", registry=registry
        )
        self.cache_bytes = Gauge("tidegate_cache_bytes", "About what they take (bytes).", registry=registry)
        self.cache_checked = Counter(
            "tidegate_cache_checked",
            "Hits by similarity whose answer was made anew to compare: right, wrong or unclear (it changed meanwhile).",
            ["result"],
            registry=registry,
        )
        self.cache_false_hit_bound = Gauge(
            "tidegate_cache_false_hit_bound",
            "Upper 95 % bound of the share of wrong hits among the checked ones (1 = none was checked).",
            registry=registry,
        )
        self.cache_false_hit_budget = Gauge(
            "tidegate_cache_false_hit_budget",
            "Share of hits by similarity that may be wrong (0 = no such hit is given).",
            registry=registry,
        )
        self.cache_shadows = Counter(
            "tidegate_cache_shadows",
            "Near answers that were not given, compared with those made instead: right, wrong or unclear.",
            ["result"],
            registry=registry,
        )
        self.cache_shadow_bound = Gauge(
            "tidegate_cache_shadow_bound",
            "Upper 95 % bound of the share of wrong ones among the shadows (1 = none was compared).",
            registry=registry,
        )
        self.cache_threshold = Gauge(
            "tidegate_cache_threshold",
            "Similarity from which on another wording is met, median of the topics learned of (2 = never).",
            registry=registry,
        )
        self.cache_topics = Gauge(
            "tidegate_cache_topics",
            "Topics whose threshold was learned, by whether other wordings are met: open or closed.",
            ["state"],
            registry=registry,
        )


class _ProcessMetrics:
    """This worker, the parts that it needs, and the files that wait for ingest."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.ready = Gauge(
            "tidegate_ready",
            "1 while this worker takes requests, 0 before and after.",
            registry=registry,
        )
        self.part_up = Gauge(
            "tidegate_part_up",
            "Whether a part that this worker needs answers it (1) or not (0).",
            ["part"],
            registry=registry,
        )
        self.loop_lag_s = Gauge(
            "tidegate_event_loop_lag_seconds",
            "Worst lateness of the worker's event loop in the last one to two seconds.",
            registry=registry,
        )
        self.memory_share = Gauge(
            "tidegate_memory_share",
            "Memory in use by the limit that new work is refused by (0 = there is no limit).",
            registry=registry,
        )
        self.trace_spans = Counter(
            "tidegate_trace_spans",
            "Spans of traces: sent, or dropped because the queue was full, the collector refused them or we stopped.",
            ["result"],
            registry=registry,
        )
        self.alert_actions = Counter(
            "tidegate_alert_actions",
            "What was done about alerts, by action and result.",
            ["action", "result"],
            registry=registry,
        )
        self.ingest_waiting = Gauge(
            "tidegate_ingest_waiting",
            "Files that are being ingested or wait for it; the same number in every worker.",
            registry=registry,
        )
        self.ingest_working = Gauge(
            "tidegate_ingest_working", "Those of them that a worker holds a lease on.", registry=registry
        )
        self.ingest_oldest_s = Gauge(
            "tidegate_ingest_oldest_wait_seconds",
            "Time since the oldest of these files was attached (0 = there is none).",
            registry=registry,
        )
        self.ingest_attempts = Gauge(
            "tidegate_ingest_most_attempts",
            "Most attempts that one of these files has had; each one beyond the first is a worker that died.",
            registry=registry,
        )


class Metrics(
    _RequestMetrics,
    _QueueMetrics,
    _TierMetrics,
    _TenantMetrics,
    _CacheMetrics,
    _ProcessMetrics,
):
    """One registry per process, handed to whoever counts something."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.series = Series()
        self.genai, self.trials = GenAiMetrics(self.registry, self.series), TrialMetrics(self.registry)
        self.tenant_names = TenantNames()
        _RequestMetrics.__init__(self, self.registry)
        _QueueMetrics.__init__(self, self.registry)
        _TierMetrics.__init__(self, self.registry)
        _TenantMetrics.__init__(self, self.registry)
        _CacheMetrics.__init__(self, self.registry)
        _ProcessMetrics.__init__(self, self.registry)

    def render(self) -> bytes:
        """Prometheus text exposition."""
        return generate_latest(self.registry)
