"""How each version of a model does, while a rollout has it on trial: its errors and its time to the first text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gateway.errors import UpstreamError
from gateway.metrics import TrialMetrics
from gateway.tiering.versions import Met
from gateway.types import Receipt

UNKNOWN = "unknown"  # two versions at once on a side, until an answer says which


class Trial:
    def __init__(self, metrics: TrialMetrics, tier: str, met: Met) -> None:
        self._metrics, self._tier, self._met = metrics, tier, met
        self._first_s = -1.0

    def first_text(self, after_s: float) -> None:
        self._first_s = after_s

    def end(self, result: str, version: str) -> None:
        """version: of the answer's own account; empty where it gives none."""
        labels = (self._tier, version or self._met.version or UNKNOWN, self._met.side)
        self._metrics.answers.labels(*labels, result).inc()
        if self._first_s >= 0:
            self._metrics.first_text_s.labels(*labels).observe(self._first_s)


@contextmanager
def on_trial(metrics: TrialMetrics, tier: str, met: Met, receipt: Receipt) -> Iterator[Trial]:
    """Count one answer of that tier, if its models have versions. The receipt tells the version that is expected until
    the answer has told its own."""
    trial, result = Trial(metrics, tier, met), "left"
    receipt.version = met.version or ""
    try:
        yield trial
        result = "ok"
    except UpstreamError:
        result = "failed"
        raise
    finally:
        if met.version != "":
            trial.end(result, receipt.version)
