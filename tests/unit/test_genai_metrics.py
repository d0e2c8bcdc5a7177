"""Metrics of the GenAI conventions, and the bound on the label `tenant`."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gateway.genai_metrics import GenAiMetrics, Series, TenantNames
from gateway.metrics import Metrics
from gateway.pipeline.account import count
from gateway.types import Outcome, Receipt, Usage

CHAT = {
    "gen_ai_operation_name": "chat",
    "gen_ai_provider_name": "tidegate",
    "gen_ai_request_model": "small",
}


def test_time_per_output_token_counts_the_gaps_after_the_first_token() -> None:
    registry = CollectorRegistry()
    GenAiMetrics(registry, Series()).observe(
        "small", error="", total_s=2.1, ttft_s=0.1, num_input=7, num_output=11
    )
    name = "gen_ai_server_time_per_output_token_seconds"
    assert registry.get_sample_value(f"{name}_sum", CHAT) == pytest.approx(0.2)
    usage = {
        kind: registry.get_sample_value("gen_ai_client_token_usage_sum", {**CHAT, "gen_ai_token_type": kind})
        for kind in ("input", "output")
    }
    assert usage == {"input": 7, "output": 11}


def test_an_answer_that_never_began_has_a_duration_and_no_first_token() -> None:
    registry = CollectorRegistry()
    GenAiMetrics(registry, Series()).observe(
        "small", error="queue_ttl", total_s=3.0, ttft_s=-0.001, num_input=0, num_output=0
    )
    duration = "gen_ai_server_request_duration_seconds_count"
    assert registry.get_sample_value(duration, {**CHAT, "error_type": "queue_ttl"}) == 1
    assert registry.get_sample_value("gen_ai_server_time_to_first_token_seconds_count", CHAT) is None


def test_one_token_has_no_gap() -> None:
    registry = CollectorRegistry()
    GenAiMetrics(registry, Series()).observe(
        "small", error="", total_s=1.0, ttft_s=0.5, num_input=1, num_output=1
    )
    assert registry.get_sample_value("gen_ai_server_time_per_output_token_seconds_count", CHAT) is None


def test_tenants_beyond_the_bound_share_one_name_and_the_first_keep_theirs() -> None:
    names = TenantNames(max_names=2)
    assert [names.label(tenant) for tenant in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_a_request_counts_for_its_tenant_and_one_without_for_none() -> None:
    metrics = Metrics()
    receipt = Receipt(id="1", created=0, outcome=Outcome.COMPLETED, tier="fast", usage=Usage(5, 6))
    count(metrics, receipt, "acme")
    count(metrics, receipt)
    tokens = metrics.registry.get_sample_value
    labels = {"tenant": "acme", "tier": "fast"}
    assert tokens("tidegate_tenant_tokens_total", {**labels, "direction": "input"}) == 5
    assert tokens("tidegate_tenant_tokens_total", {**labels, "direction": "output"}) == 6
    assert tokens("tidegate_tenant_requests_total", {"tenant": "acme", "outcome": "completed"}) == 1
