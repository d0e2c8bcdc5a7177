"""The metrics of OpenTelemetry's GenAI conventions, as Prometheus spells them: `_` for dots, the unit at the end.

    gen_ai.server.request.duration         received -> last byte
    gen_ai.server.time_to_first_token      received -> first non-empty text
    gen_ai.server.time_per_output_token    (duration - time to first token) / (output tokens - 1)
    gen_ai.client.token.usage              tokens of one request, by gen_ai.token.type

Buckets are the conventions' own. Labels hold the tier, never a tenant or anything a caller wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.metrics import MetricWrapperBase

Metric = TypeVar("Metric", bound=MetricWrapperBase)

_DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
_PER_TOKEN_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_TOKENS = tuple(4**power for power in range(14))
OPERATION, PROVIDER = "chat", "tidegate"
COMMON = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
NO_ERROR = ""


class Series:
    """The series of metrics by their labels, each found once: `labels` locks, checks and converts them every time. They
    live as long as the process, as the metrics' own do, so no label may hold what a caller wrote."""

    def __init__(self) -> None:
        self._found: dict[tuple[MetricWrapperBase, tuple[str, ...]], MetricWrapperBase] = {}

    def of(self, metric: Metric, *labels: str) -> Metric:
        found = self._found.get((metric, labels))
        if found is None:
            found = self._found[metric, labels] = metric.labels(*labels)
        return found  # type: ignore[return-value]


class GenAiMetrics:
    """Observed once for each request, at its end."""

    def __init__(self, registry: CollectorRegistry, series: Series) -> None:
        self._of = series.of

        def histogram(name: str, about: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name, about, [*COMMON, *labels], buckets=buckets, registry=registry)

        self.duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Request received to last byte.",
            _DURATION_S,
            "error_type",
        )
        self.first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Request received to first non-empty text.",
            _FIRST_TOKEN_S,
        )
        self.per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time of an output token after the first one.",
            _PER_TOKEN_S,
        )
        self.token_usage = histogram(
            "gen_ai_client_token_usage", "Tokens of one request.", _TOKENS, "gen_ai_token_type"
        )

    def observe(
        self, tier: str, *, error: str, total_s: float, ttft_s: float, num_input: int, num_output: int
    ) -> None:
        """One finished request. error: its code, or NO_ERROR. ttft_s: below 0 = there was no text."""
        common = (OPERATION, PROVIDER, tier)
        self._of(self.duration, *common, error).observe(total_s)
        if ttft_s >= 0:
            self._of(self.first_token, *common).observe(ttft_s)
            if num_output > 1:
                self._of(self.per_token, *common).observe(max(total_s - ttft_s, 0.0) / (num_output - 1))
        if num_input:
            self._of(self.token_usage, *common, "input").observe(num_input)
        if num_output:
            self._of(self.token_usage, *common, "output").observe(num_output)


class TenantNames:
    """Bounds the label `tenant`: each series lives as long as its process. The first ones keep their names."""

    def __init__(self, max_names: int = 200) -> None:
        self._max_names = max_names
        self._names: set[str] = set()

    def label(self, tenant_id: str) -> str:
        """The id, or `other` once max_names tenants have been seen."""
        if tenant_id not in self._names:
            if len(self._names) >= self._max_names:
                return OTHER_TENANTS
            self._names.add(tenant_id)
        return tenant_id


OTHER_TENANTS = "other"
