"""Scripted stand-ins for what lies behind Triton, with knobs; they pass the same contract suite as the real ones.

Knobs: delay_s before anything happens, gap_s between deltas, fail_with at delta `fail_at`. What happened is on
`started`, `finished` and `cancelled`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from gateway.errors import UpstreamTimeout
from gateway.ports import Retrieved
from gateway.tensors import EMBEDDING_DIM
from gateway.types import DEFAULT_EMBEDDER, Citation, Delta, Inquiry, Passage, Scope


def passage(number: int, text: str, *, collection_id: str = "vs_1", score: float = 0.8) -> Passage:
    return Passage(
        chunk_id=number,
        collection_id=collection_id,
        file_id=f"file-{number}",
        filename=f"doc{number}.md",
        ordinal=0,
        heading="Guide",
        start=0,
        end=len(text),
        text=text,
        score=score,
        rank_score=score,
    )


PASSAGES = [
    passage(1, "A tide gate lets water through one way. It holds back the surge."),
    passage(2, "Envoy balances gRPC over the replicas."),
]


async def _sleep(delay_s: float, timeout_s: float) -> None:
    """Raises: UpstreamTimeout at the time limit, as the real ones do."""
    await asyncio.sleep(min(delay_s, timeout_s))
    if delay_s >= timeout_s:
        raise UpstreamTimeout("The model server did not answer in time.")


@dataclass
class ScriptedRetriever:
    passages: list[Passage] = field(default_factory=lambda: list(PASSAGES))
    delay_s: float = 0.0
    fail_with: Exception | None = None
    scopes: list[Scope] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)  # what was searched for
    bands: list[str] = field(default_factory=list)
    by_vector: list[str] = field(default_factory=list)  # of those, the ones that needed no embedding
    epoch: int = 1  # of the corpus, as it says
    started: int = 0
    cancelled: int = 0

    async def retrieve(
        self,
        text: str,
        scope: Scope,
        *,
        timeout_s: float,
        embedding: npt.NDArray[np.float32] | None = None,
        band: str = "interactive",
    ) -> Retrieved:
        self.started += 1
        self.bands.append(band)
        self.by_vector += [] if embedding is None else [text]
        self.scopes.append(scope)
        self.texts.append(text)
        try:
            await _sleep(self.delay_s, timeout_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail_with is not None:
            raise self.fail_with
        return Retrieved(vectors([text])[0], self.passages[: scope.k], 1.5, 0.5, self.epoch)


@dataclass
class ScriptedAnswerer:
    """Quotes the first sentences of the passages, one delta each, unless `texts` says otherwise."""

    texts: list[str] | None = None
    delay_s: float = 0.0
    gap_s: float = 0.0
    in_one_breath: int = 1  # so many deltas come without a wait in between
    hold_s: float = 0.0  # before the last delta, which has the finish reason
    fail_with: Exception | None = None
    fail_at: int = 0
    started: int = 0
    finished: int = 0
    cancelled: int = 0
    inquiries: list[Inquiry] = field(default_factory=list)
    num_passages: int = -1  # that it says it had room for
    num_unsupported: int = 0  # marks that it says it took out
    version: str = ""

    async def answer(
        self, inquiry: Inquiry, passages: Sequence[Passage], *, timeout_s: float
    ) -> AsyncIterator[Delta]:
        self.started += 1
        self.inquiries.append(inquiry)
        done = False
        try:
            await _sleep(self.delay_s, timeout_s)
            if self.num_passages >= 0:
                yield Delta(num_passages=self.num_passages)
            for index, delta in enumerate(self._deltas(passages)):
                if self.fail_with is not None and index == self.fail_at:
                    raise self.fail_with
                if (index and index % self.in_one_breath == 0) or (delta.finish_reason and self.hold_s):
                    await asyncio.sleep(self.hold_s if delta.finish_reason and self.hold_s else self.gap_s)
                yield delta
            done = True
        finally:
            self.finished += done
            self.cancelled += not done

    def _deltas(self, passages: Sequence[Passage]) -> list[Delta]:
        if self.texts is not None:
            deltas = [
                Delta(text=text, num_input_tokens=7, num_output_tokens=i + 1)
                for i, text in enumerate(self.texts)
            ]
        else:
            deltas = [_quote(number, each) for number, each in enumerate(passages, 1)]
        end = Delta(
            finish_reason="stop" if deltas else "no_answer",
            num_input_tokens=7,
            num_output_tokens=deltas[-1].num_output_tokens if deltas else 0,
            num_unsupported=self.num_unsupported,
            version=self.version,
        )
        return [*deltas, end]


def _quote(number: int, each: Passage) -> Delta:
    sentence = each.text.split(". ")[0].rstrip(".") + "."
    lead = " " if number > 1 else ""
    citation = Citation(passage=number, start=each.start, end=each.start + len(sentence), text=sentence)
    return Delta(
        text=f"{lead}{sentence} [{number}]",
        citations=[citation],
        num_input_tokens=7,
        num_output_tokens=number * 5,
    )


class HashEmbedder:
    """Deterministic unit vectors from the text's hash: equal texts are near, others are not."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    async def embed(
        self,
        texts: Sequence[str],
        *,
        role: str,
        timeout_s: float,
        embedder: str = DEFAULT_EMBEDDER,
        tenant: str = "",
    ) -> npt.NDArray[np.float32]:
        self.texts += texts
        return vectors(texts)


def vectors(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    rows = np.empty((len(texts), EMBEDDING_DIM), np.float32)
    for row, text in zip(rows, texts, strict=True):
        seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "little")
        row[:] = np.random.default_rng(seed).standard_normal(EMBEDDING_DIM)
        row /= np.linalg.norm(row)
    return rows
