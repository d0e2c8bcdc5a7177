"""ports.Engine over a library that batches on GPUs by itself: slots, ends and errors are the same for all of them.

What differs between the libraries is behind `Backend`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from gateway.errors import TidegateError, UpstreamError
from gateway.generation.slot_gate import SlotGate
from gateway.ports import EngineLoad, GenerationParams, TokenStep

FINISHED = {"stop": "stop", "length": "length"}

log = logging.getLogger("tidegate.engine")


class EngineMissing(RuntimeError):
    """The library of an engine is not installed, or is of a version that cannot be used. One sentence."""


class Piece(NamedTuple):
    """What a library has made since the last one. finish: in its own words, "" while running.

    stop_id: the end token, where the library says it and may have left it out of token_ids.
    """

    token_ids: Sequence[int]
    finish: str = ""
    stop_id: int | None = None


class RequestFailed(Exception):
    """The library could not serve this one request; the others are unharmed."""


class Backend(Protocol):
    """A library that runs. Its calls are made in one event loop."""

    def pieces(
        self, number: int, prompt_ids: Sequence[int], params: GenerationParams, max_tokens: int
    ) -> AsyncGenerator[Piece, None]:
        """Leaving it aborts the request. number: never used twice. Raises: RequestFailed; anything else breaks all."""
        ...

    def shut_down(self) -> None:
        """May take seconds. What still runs ends with an error."""
        ...


class GpuEngine:
    """slots: the library's batch, so that nothing queues in it. end_ids: tokens that end an output.

    Greedy output is the same from run to run as far as the library's kernels are: sums on a GPU depend on the batch.
    """

    def __init__(self, backend: Backend, gate: SlotGate, end_ids: Collection[int]) -> None:
        self._backend = backend
        self._gate = gate
        self._end_ids = frozenset(end_ids)
        self._numbers = itertools.count(1)
        self._num_tokens: dict[int, int] = {}  # of each running request, prompt and output
        self._is_closed = False
        self.is_broken = False

    async def generate(self, prompt_ids: Sequence[int], params: GenerationParams) -> AsyncIterator[TokenStep]:
        """As in ports.Engine."""
        max_tokens = self._gate.check(prompt_ids, params, len(self._num_tokens))
        self._check_alive()
        number = next(self._numbers)
        self._num_tokens[number] = len(prompt_ids)
        try:
            async with aclosing(self._backend.pieces(number, prompt_ids, params, max_tokens)) as pieces:
                async for piece in pieces:
                    step = self._step(piece)
                    self._num_tokens[number] += len(step.token_ids)
                    yield step
                    if step.finish_reason:
                        return
            raise UpstreamError("the engine lost the request.")
        except TidegateError:
            raise
        except RequestFailed as error:
            if self._is_closed:  # vLLM aborts what still runs
                raise UpstreamError("the engine is being closed.") from error
            raise UpstreamError("the engine failed on this request.", detail=str(error)) from error
        except Exception as error:
            if self._is_closed:
                raise UpstreamError("the engine is being closed.") from error
            if not self.is_broken:
                log.exception("the engine failed")
            self.is_broken = True
            raise UpstreamError("the engine failed on this batch.", detail=str(error)) from error
        finally:
            del self._num_tokens[number]

    def load(self) -> EngineLoad:
        """kv_usage: by our own count, where a prefix that several requests share counts once for each."""
        usage = sum(self._num_tokens.values()) / (self._gate.slots * self._gate.context_tokens)
        return EngineLoad(len(self._num_tokens), self._gate.slots, min(usage, 1.0))

    async def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            await asyncio.to_thread(self._backend.shut_down)

    def _check_alive(self) -> None:
        if self.is_broken:
            raise UpstreamError("the engine has failed and is being replaced.")
        if self._is_closed:
            raise UpstreamError("the engine is being closed.")

    def _step(self, piece: Piece) -> TokenStep:
        """With the end token where the library leaves it out. Raises: RequestFailed for an end that is none."""
        if not piece.finish:
            return TokenStep(list(piece.token_ids))
        reason = FINISHED.get(piece.finish)
        if reason is None:
            raise RequestFailed(f"it ended with {piece.finish!r}")
        ids = list(piece.token_ids)
        if reason == "stop" and piece.stop_id is not None and (not ids or ids[-1] not in self._end_ids):
            ids.append(piece.stop_id)
        return TokenStep(ids, reason)
