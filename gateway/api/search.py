"""POST /v1/vector_stores/{id}/search: passages without an answer, in OpenAI's shape."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import sqlalchemy as sa
from sanic import HTTPResponse, Request

from gateway import filters
from gateway.api.auth import http_caller
from gateway.api.collections import collection_ids
from gateway.api.decode import json_body
from gateway.api.limits import SEARCH, count_tokens, metered, told_limits
from gateway.api.reply import reply
from gateway.api.schemas import RankingOptions, SearchBody
from gateway.api.services import Services
from gateway.api.transactions import reading
from gateway.api.validation import query_text
from gateway.api.vector_stores import no_store
from gateway.pipeline import traced
from gateway.ports import Retrieved
from gateway.storage import catalog
from gateway.types import Passage, Scope, Tenant

_SEARCH = msgspec.json.Decoder(SearchBody)
SEARCH_TIMEOUT_S = 10.0

Ranking = Literal["hybrid", "dense", "lexical"]


async def metered_search(
    services: Services, tenant: Tenant, query: str, scope: Scope, *, timeout_s: float
) -> Retrieved:
    """A search without an answer, against the caller's limits; for both doors. Raises: RateLimited, UpstreamError."""
    num_tokens = await count_tokens(services, [query])
    async with metered(services, tenant, num_tokens, name=SEARCH, id_prefix="srch"):
        with traced.retrieval(scope) as span:
            found = await services.retriever.retrieve(query, scope, timeout_s=timeout_s)
            traced.found(span, found)
            return found


async def search(request: Request, services: Services, store_id: str) -> HTTPResponse:
    """Several stores at once when the body names more than the path's."""
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _SEARCH)
    if body.filters is not None:
        filters.check(body.filters, "filters")
    queries = [body.query] if isinstance(body.query, str) else body.query
    query = query_text(queries, services.settings.max_question_chars)
    row = await reading(services, lambda conn: catalog.get_collection(conn, tenant.tenant_id, store_id))
    if row is None:
        raise no_store(store_id)
    others = await collection_ids(services, tenant, body.tidegate.collections)
    options = body.ranking_options or RankingOptions()
    scope = Scope(
        tenant_id=tenant.tenant_id,
        collections=list(dict.fromkeys([store_id, *others])),
        k=body.max_num_results,
        filters=body.filters,
        ranking=_ranking(options),
    )

    async def answer() -> HTTPResponse:
        found = await metered_search(services, tenant, query, scope, timeout_s=SEARCH_TIMEOUT_S)
        kept = [each for each in found.passages if each.rank_score >= (options.score_threshold or 0.0)]
        attributes = await reading(services, lambda conn: _attributes(conn, tenant.tenant_id, kept))
        data = [_hit(passage, attributes[passage.collection_id, passage.file_id]) for passage in kept]
        return reply(
            {
                "object": "vector_store.search_results.page",
                "search_query": queries,
                "data": data,
                "has_more": False,
                "next_page": None,
            }
        )

    return await told_limits(services, tenant, answer())


def _ranking(options: RankingOptions) -> Ranking:
    match options.ranker:
        case "dense" | "lexical" as ranking:
            return ranking
    return "hybrid"


def _attributes(
    conn: sa.Connection, tenant_id: str, passages: list[Passage]
) -> dict[tuple[str, str], dict[str, Any]]:
    """By collection and file. A file that has just left has none."""
    places = {(passage.collection_id, passage.file_id) for passage in passages}
    rows = {place: catalog.get_attachment(conn, tenant_id, *place) for place in places}
    return {place: row.attributes if row else {} for place, row in rows.items()}


def _hit(passage: Passage, attributes: dict[str, Any]) -> dict[str, object]:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.rank_score,
        "attributes": attributes,
        "content": [{"type": "text", "text": passage.text}],
        "tidegate": {
            "chunk_id": passage.chunk_id,
            "chunk_ids": passage.chunk_ids,
            "collection_id": passage.collection_id,
            "heading": passage.heading,
            "page": passage.page,
            "start": passage.start,
            "end": passage.end,
            "cosine": passage.score,
            "lexical": passage.lexical,
        },
    }
