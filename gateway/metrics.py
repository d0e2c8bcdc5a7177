"""Every metric tidegate exports, in one place. Names and units follow OpenTelemetry's GenAI conventions where they fit.

ttft = request received by the gateway -> first non-empty text. Buckets resolve the targets: 40 ms (`fast`),
150 ms (`deep`), and the seconds a queue may take.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One registry per process, handed to whoever counts something."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "tidegate_requests",
            "Chat requests by their one outcome.",
            ["outcome", "cause", "tier"],
            registry=self.registry,
        )
        self.http = Counter(
            "tidegate_http_responses",
            "HTTP responses by route and status.",
            ["route", "status"],
            registry=self.registry,
        )
        self.ttft_s = Histogram(
            "tidegate_time_to_first_token_seconds",
            "Request received to first text.",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.total_s = Histogram(
            "tidegate_request_duration_seconds",
            "Request received to last byte.",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.queue_s = Histogram(
            "tidegate_queue_wait_seconds",
            "Wait for a slot.",
            ["tier"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.retrieve_s = Histogram(
            "tidegate_retrieve_seconds", "Embed and search.", buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter(
            "tidegate_tokens", "Tokens by direction.", ["tier", "direction"], registry=self.registry
        )
        self.inflight = Gauge(
            "tidegate_inflight", "Requests holding a slot.", ["tier"], registry=self.registry
        )
        self.waiting = Gauge(
            "tidegate_waiting", "Requests waiting for a slot.", ["tier"], registry=self.registry
        )
        self.unsupported_citations = Counter(
            "tidegate_unsupported_citations",
            "Marks [n] of written answers that no passage bore out and that were taken out.",
            ["tier"],
            registry=self.registry,
        )
        self.dropped_records = Counter(
            "tidegate_dropped_records", "Receipts lost because SQL was away too long.", registry=self.registry
        )

    def render(self) -> bytes:
        """Prometheus text exposition."""
        return generate_latest(self.registry)
