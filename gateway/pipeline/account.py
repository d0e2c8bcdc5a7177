"""What is written down of a request: its outcome, its receipt step by step, the metrics at its end."""

from __future__ import annotations

import logging

from gateway import logs
from gateway.errors import AdmissionError, DeadlineExceeded, Evicted, InvalidRequest, TidegateError
from gateway.metrics import Metrics
from gateway.types import Delta, Outcome, Receipt, Usage

log = logging.getLogger("tidegate.chat")

BEFORE_QUEUE = ("received", "retrieving")


def outcome_of(error: TidegateError, receipt: Receipt) -> Outcome:
    if isinstance(error, Evicted | DeadlineExceeded):
        is_before = receipt.stage in BEFORE_QUEUE and receipt.queue_ms < 0
        return Outcome.REJECTED if is_before else Outcome.EVICTED
    if isinstance(error, AdmissionError | InvalidRequest):
        return Outcome.REJECTED
    return Outcome.FAILED


def account(receipt: Receipt, delta: Delta) -> None:
    """Take one step of the answer into the receipt."""
    if delta.num_passages >= 0:
        for passage in receipt.passages[delta.num_passages :]:
            passage["in_prompt"] = False
    receipt.unsupported_citations += delta.num_unsupported
    for citation in delta.citations:
        receipt.passages[citation.passage - 1]["cited"] = True
    if delta.finish_reason:
        receipt.finish_reason, receipt.version = delta.finish_reason, delta.version
    if delta.num_input_tokens or delta.num_output_tokens:
        receipt.usage = Usage(  # a prompt is counted by the gateway first, then by its engine: that one holds
            delta.num_input_tokens or receipt.usage.prompt_tokens,
            max(receipt.usage.completion_tokens, delta.num_output_tokens),
        )


def billed_tokens(receipt: Receipt) -> int:
    """Prompt and answer, once a first token was sent or the answer is whole, as in the ledger; nothing before."""
    used = receipt.usage
    has_begun = used.completion_tokens or receipt.finish_reason
    return used.prompt_tokens + used.completion_tokens if has_begun else 0


def count(metrics: Metrics, receipt: Receipt, tenant_id: str = "") -> None:
    """A finished request in the metrics and in the log. tenant_id: empty where none was found."""
    tier, usage, of = receipt.tier or "none", receipt.usage, metrics.series.of
    metrics.genai.observe(
        tier,
        error=receipt.cause,
        total_s=receipt.total_ms / 1000,
        ttft_s=receipt.ttft_ms / 1000,
        num_input=usage.prompt_tokens,
        num_output=usage.completion_tokens,
    )
    if tenant_id:
        tenant = metrics.tenant_names.label(tenant_id)
        of(metrics.tenant_requests, tenant, receipt.outcome.value).inc()
        of(metrics.tenant_tokens, tenant, tier, "input").inc(usage.prompt_tokens)
        of(metrics.tenant_tokens, tenant, tier, "output").inc(usage.completion_tokens)
    of(metrics.requests, receipt.outcome.value, receipt.cause, tier).inc()
    of(metrics.total_s, tier).observe(receipt.total_ms / 1000)
    if receipt.ttft_ms >= 0:
        of(metrics.ttft_s, tier).observe(receipt.ttft_ms / 1000)
    if receipt.queue_ms >= 0:
        of(metrics.queue_s, tier).observe(receipt.queue_ms / 1000)
    of(metrics.tokens, tier, "input").inc(usage.prompt_tokens)
    of(metrics.tokens, tier, "output").inc(usage.completion_tokens)
    if receipt.stage == "done":  # a refusal counts itself, and what failed was given to nobody
        for step in receipt.degraded:
            of(metrics.degraded, step, tier).inc()
    if receipt.unsupported_citations:
        of(metrics.unsupported_citations, tier).inc(receipt.unsupported_citations)
    logs.info(
        log,
        f"outcome={receipt.outcome.value} cause={receipt.cause or '-'} stage={receipt.stage} tier={tier} "
        f"total_ms={receipt.total_ms} id={receipt.id}",
    )
