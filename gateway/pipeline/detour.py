"""Where a request goes on when its tier fails it before the first token: down the chain of the tier that was chosen."""

from __future__ import annotations

from gateway.errors import TidegateError
from gateway.metrics import Metrics
from gateway.pipeline.request import ChatRequest, Sink
from gateway.pipeline.route import Route, Router
from gateway.tiering.fallback import cause_of, told
from gateway.types import Receipt, Usage


class Detour:
    """Of one request. Each tier of the chain is asked once; what was found for the question goes along."""

    def __init__(
        self, router: Router, metrics: Metrics, request: ChatRequest, sink: Sink, receipt: Receipt
    ) -> None:
        self._router, self._metrics = router, metrics
        self._request, self._sink, self._receipt = request, sink, receipt
        self._left: list[str] | None = None
        self._before = ""
        self._first: TidegateError

    @property
    def is_taken(self) -> bool:
        return self._left is not None

    def back_to(self, tier: str) -> None:
        """After its chain: the tier that found too little, and would have said so. A better one took its place."""
        self._before = tier

    def after(self, route: Route, error: TidegateError) -> Route:
        """The next tier, written down with its cause.

        Raises: the error, where text was sent already or another tier would not help; where the chain has ended, that
        of the tier that was asked first.
        """
        cause = cause_of(error, is_extra=bool(self._before))
        if cause is None or self._receipt.ttft_ms >= 0 or _is_begun(self._request):
            raise error  # whoever has the beginning of an answer has it of this tier
        if self._left is None:
            self._left, self._first = [*route.tier.fallback, *filter(None, [self._before])], error
        while self._left:
            instead = self._router.instead(self._request, self._left.pop(0))
            if instead is not None:
                self._write_down(route.tier.name, cause, instead.tier.name)
                return instead
        if self._first is error:
            raise error
        raise self._first from error

    def _write_down(self, failed: str, cause: str, instead: str) -> None:
        receipt = self._receipt
        receipt.tier_reason += f"; {told(failed, cause, instead)}"
        receipt.tier, receipt.usage = instead, Usage()
        for passage in receipt.passages:  # as the next tier has room for them
            passage["in_prompt"] = True
        self._sink.chosen(instead)
        self._metrics.fallbacks.labels(failed, cause, instead).inc()


def _is_begun(request: ChatRequest) -> bool:
    return request.earlier is not None and bool(request.earlier.text)
