"""The steps of a chat request as spans, in the words of OpenTelemetry's GenAI conventions where they have one.

No span holds what was asked, found or answered, nor who asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from gateway.genai_metrics import OPERATION, PROVIDER
from gateway.pipeline.request import ChatRequest
from gateway.ports import Retrieved
from gateway.tiering.tiers import Tier
from gateway.tracing import spans
from gateway.tracing.spans import Attributes, Span, Value
from gateway.types import Outcome, Receipt, Scope

if TYPE_CHECKING:  # it tells of itself here
    from gateway.pipeline.remember import Recall

LOOKUP, ADMISSION, RETRIEVAL, FIRST_TEXT = "cache lookup", "admission", "retrieval", "first text"


async def lookup(recalling: Awaitable[Recall | None]) -> Recall | None:
    with spans.step(LOOKUP) as span:
        recall = await recalling
        if span is not None:
            span.set({"tidegate.cache.lookup": _remembered(recall)})
        return recall


def _remembered(recall: Recall | None) -> str:
    if recall is None:
        return "off"
    if not recall.reads:
        return "refresh"
    if recall.is_under_way:
        return "under_way"
    if recall.entry is None:
        return "miss"
    return "hit" if recall.is_certain else "to_be_checked"  # whether retrieval finds the same evidence


def admission(tier: Tier, request: ChatRequest) -> AbstractContextManager[Span | None]:
    return spans.step(ADMISSION, {"tidegate.tier": tier.name, "tidegate.priority": request.priority})


def retrieval(scope: Scope) -> AbstractContextManager[Span | None]:
    return spans.step(
        RETRIEVAL,
        {
            "gen_ai.operation.name": "retrieval",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": scope.embedder,
            "gen_ai.retrieval.top_k": scope.k,
            "tidegate.ranking": scope.ranking,
            "tidegate.rerank": scope.rerank,
        },
        is_call=True,
    )


def found(span: Span | None, retrieved: Retrieved) -> None:
    if span is not None:
        span.set(
            {
                "tidegate.passages": len(retrieved.passages),
                "tidegate.embed_ms": retrieved.embed_ms,
                "tidegate.search_ms": retrieved.search_ms,
            }
        )


def embedding(model: str, num_tokens: int) -> AbstractContextManager[Span | None]:
    return spans.step(
        f"embeddings {model}",
        {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
            "gen_ai.usage.input_tokens": num_tokens,
        },
        is_call=True,
    )


def generation(request: ChatRequest, tier: Tier, receipt: Receipt) -> AbstractContextManager[Span | None]:
    if spans.current() is None:
        return nullcontext()
    return _generation(request, tier, receipt)


@contextmanager
def _generation(request: ChatRequest, tier: Tier, receipt: Receipt) -> Iterator[Span | None]:
    with spans.step(f"{OPERATION} {tier.name}", _asked(request, tier), is_call=True) as span:
        try:
            yield span
        finally:
            if span is not None:
                span.set(_answered(request, tier, receipt))


def _asked(request: ChatRequest, tier: Tier) -> Attributes:
    sampling = request.sampling
    asked: dict[str, Value | None] = {
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": tier.name,
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": request.conversation or None,
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.seed": sampling.seed,
    }
    return {name: value for name, value in asked.items() if value is not None}


def _answered(request: ChatRequest, tier: Tier, receipt: Receipt) -> Attributes:
    answered: dict[str, Value] = {
        "gen_ai.response.id": request.id,
        "gen_ai.response.model": tier.name,
        "gen_ai.usage.input_tokens": receipt.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": receipt.usage.completion_tokens,
    }
    if receipt.finish_reason:
        answered["gen_ai.response.finish_reasons"] = [receipt.finish_reason]
    return answered


def first_text(receipt: Receipt, since_call_s: float) -> None:
    """Of the generation that is under way. since_call_s: from the call of its tier to now."""
    span = spans.current()
    if span is not None:
        span.set({"gen_ai.response.time_to_first_chunk": since_call_s})
        span.event(FIRST_TEXT, {"gen_ai.server.time_to_first_token": receipt.ttft_ms / 1000})


def joined(trace_id: str) -> None:
    """The answer is made in another request's trace."""
    span = spans.current()
    if span is not None and trace_id:
        span.set({"tidegate.cache.joined_trace_id": trace_id})


def told(receipt: Receipt) -> None:
    """A finished request, in the span that its door began."""
    span = spans.current()
    if span is None:
        return
    span.set(
        {
            "tidegate.request_id": receipt.id,
            "tidegate.outcome": receipt.outcome.value,
            "tidegate.stage": receipt.stage,
            "tidegate.tier": receipt.tier,
            "tidegate.cache": receipt.cache,
            "tidegate.degraded": receipt.degraded,
            "tidegate.hops": receipt.hops,
        }
    )
    if receipt.ttft_ms >= 0:
        span.set({"gen_ai.server.time_to_first_token": receipt.ttft_ms / 1000})
    if receipt.outcome is Outcome.FAILED:
        span.fail(receipt.cause)
    elif receipt.cause:
        span.set({"error.type": receipt.cause})
