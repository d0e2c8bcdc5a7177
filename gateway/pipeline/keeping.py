"""An answer that was made, as it is remembered."""

from __future__ import annotations

import numpy as np

from gateway.caching.entry import Entry, Piece, identity
from gateway.caching.key import Key
from gateway.pipeline.request import ChatRequest, Evidence
from gateway.pipeline.shared_work import Sent, SharedWork


def entry_of(
    key: Key,
    request: ChatRequest,
    shared: SharedWork,
    evidence: Evidence,
    *,
    edition: str,
    created: float,
    expires: float,
) -> Entry:
    """created, expires: unix seconds."""
    made, embedding = shared.made, evidence.embedding
    return Entry(
        tenant_id=key.tenant_id,
        scope=key.scope,
        digest=key.digest,
        question=request.question,
        pieces=[Piece(step.text, step.citations) for step in _sent(shared)],
        passages=evidence.passages,
        tier=made.tier,
        edition=edition,
        finish_reason=made.finish_reason,
        prompt_tokens=made.usage.prompt_tokens,
        completion_tokens=made.usage.completion_tokens,
        unsupported_citations=made.unsupported_citations,
        hops=made.hops,
        in_prompt=[int(str(passage["n"])) for passage in made.passages if passage["in_prompt"]],
        degraded=list(made.degraded),
        epoch=evidence.epoch,
        created=created,
        expires=expires,
        vector=b"" if embedding is None else np.asarray(embedding, np.float32).tobytes(),
    )


def is_of_one_piece(shared: SharedWork, evidence: Evidence) -> bool:
    """Whether an answer that was begun again counts the same passages from its beginning to its end."""
    found = [identity(passage) for passage in evidence.passages]
    return all([identity(passage) for passage in step.passages] == found for step in _sent(shared))


def _sent(shared: SharedWork) -> list[Sent]:
    return [step for step in shared.flight.log if isinstance(step, Sent)]
