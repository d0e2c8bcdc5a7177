"""/v1/vector_stores: collections in OpenAI's shapes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec
import sqlalchemy as sa
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import clean_text, json_body, page_limit, page_order
from gateway.api.files import no_file, page, reply
from gateway.api.schemas import (
    AttachBody,
    AttributesBody,
    SearchBody,
    VectorStoreBody,
    VectorStoreUpdate,
)
from gateway.api.services import Services
from gateway.api.validation import query_text
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog
from gateway.storage.catalog import AttachmentRow, CollectionRow, FileCounts
from gateway.types import Passage, Scope

T = TypeVar("T")
_CREATE = msgspec.json.Decoder(VectorStoreBody)
_UPDATE = msgspec.json.Decoder(VectorStoreUpdate)
_ATTACH = msgspec.json.Decoder(AttachBody)
_ATTRIBUTES = msgspec.json.Decoder(AttributesBody)
_SEARCH = msgspec.json.Decoder(SearchBody)
STATUSES = ("in_progress", "completed", "failed", "cancelled")
SEARCH_TIMEOUT_S = 10.0


async def reading(services: Services, work: Callable[[sa.Connection], T]) -> T:
    def in_thread() -> T:
        with services.database.read() as conn:
            return work(conn)

    return await asyncio.to_thread(in_thread)


async def writing(services: Services, work: Callable[[sa.Connection], T]) -> T:
    def in_thread() -> T:
        with services.database.write() as conn:
            return work(conn)

    return await asyncio.to_thread(in_thread)


def no_store(store_id: str) -> NotFound:
    return NotFound(
        f"No such vector store: {store_id[:100]}.", code="vector_store_not_found", param="vector_store_id"
    )


def store_object(row: CollectionRow, counts: FileCounts | None) -> dict[str, object]:
    files = {"in_progress": 0, "completed": 0, "failed": 0, "cancelled": 0, "total": 0}
    if counts is not None:
        files = {name: getattr(counts, name) for name in files}
    return {
        "id": row.id,
        "object": "vector_store",
        "created_at": row.created_at,
        "last_active_at": row.created_at,
        "name": row.name,
        "status": "in_progress" if files["in_progress"] else "completed",
        "usage_bytes": counts.usage_bytes if counts is not None else 0,
        "file_counts": files,
        "metadata": row.metadata,
        "expires_after": None,
        "expires_at": None,
        "tidegate": {"epoch": row.epoch},
    }


def attachment_object(row: AttachmentRow) -> dict[str, object]:
    error = None
    if row.error_code:
        error = {"code": row.error_code, "message": row.error_message}
    return {
        "id": row.file_id,
        "object": "vector_store.file",
        "created_at": row.created_at,
        "vector_store_id": row.collection_id,
        "status": row.status,
        "last_error": error,
        "usage_bytes": row.usage_bytes,
        "attributes": row.attributes,
        "tidegate": {"num_chunks": row.num_chunks, "chunks_done": row.chunks_done},
    }


async def _shown(services: Services, rows: list[CollectionRow]) -> list[dict[str, object]]:
    counts = await reading(services, lambda conn: catalog.count_files(conn, [row.id for row in rows]))
    return [store_object(row, counts.get(row.id)) for row in rows]


async def create(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _CREATE)
    if body.expires_after is not None:
        raise InvalidRequest(
            "expires_after is not supported.", code="unsupported_value", param="expires_after"
        )
    name = clean_text(body.name or "", "name", max_chars=256)

    def work(conn: sa.Connection) -> CollectionRow:
        row = catalog.create_collection(conn, tenant.tenant_id, name, body.metadata or {})
        if body.file_ids:
            catalog.attach_files(conn, tenant.tenant_id, row.id, body.file_ids, {})
        return row

    row = await writing(services, work)
    if body.file_ids:
        await services.wake_ingest()
    return reply((await _shown(services, [row]))[0])


async def list_stores(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    limit, order = page_limit(request), page_order(request)
    after, before = request.args.get("after"), request.args.get("before")
    rows, has_more = await reading(
        services,
        lambda conn: catalog.list_collections(
            conn, tenant.tenant_id, limit=limit, order=order, after=after, before=before
        ),
    )
    return page(await _shown(services, rows), has_more)


async def get(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(services, lambda conn: catalog.get_collection(conn, tenant.tenant_id, store_id))
    if row is None:
        raise no_store(store_id)
    return reply((await _shown(services, [row]))[0])


async def update(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _UPDATE)
    if body.expires_after is not None:
        raise InvalidRequest(
            "expires_after is not supported.", code="unsupported_value", param="expires_after"
        )
    if body.name is not None:
        clean_text(body.name, "name", max_chars=256)
    row = await writing(
        services,
        lambda conn: catalog.update_collection(
            conn, tenant.tenant_id, store_id, name=body.name, metadata=body.metadata
        ),
    )
    if row is None:
        raise no_store(store_id)
    return reply((await _shown(services, [row]))[0])


async def delete(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    if not await writing(services, lambda conn: catalog.delete_collection(conn, tenant.tenant_id, store_id)):
        raise no_store(store_id)
    services.collection_ids.clear()
    return reply({"id": store_id, "object": "vector_store.deleted", "deleted": True})


async def attach(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _ATTACH)

    def work(conn: sa.Connection) -> AttachmentRow:
        if catalog.get_collection(conn, tenant.tenant_id, store_id) is None:
            raise no_store(store_id)
        return catalog.attach_file(conn, tenant.tenant_id, store_id, body.file_id, body.attributes or {})

    row = await writing(services, work)
    await services.wake_ingest()
    return reply(attachment_object(row))


async def list_attachments(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    limit, order = page_limit(request), page_order(request)
    status, after, before = (request.args.get(name) for name in ("filter", "after", "before"))
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"filter must be one of: {', '.join(STATUSES)}.", param="filter")

    def work(conn: sa.Connection) -> tuple[list[AttachmentRow], bool]:
        if catalog.get_collection(conn, tenant.tenant_id, store_id) is None:
            raise no_store(store_id)
        return catalog.list_attachments(
            conn,
            tenant.tenant_id,
            store_id,
            status=status,
            limit=limit,
            order=order,
            after=after,
            before=before,
        )

    rows, has_more = await reading(services, work)
    return page([attachment_object(row) for row in rows], has_more)


async def get_attachment(request: Request, services: Services, store_id: str, file_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(
        services, lambda conn: catalog.get_attachment(conn, tenant.tenant_id, store_id, file_id)
    )
    if row is None:
        raise no_file(file_id)
    return reply(attachment_object(row))


async def update_attachment(
    request: Request, services: Services, store_id: str, file_id: str
) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _ATTRIBUTES)
    row = await writing(
        services,
        lambda conn: catalog.update_attributes(
            conn, tenant.tenant_id, store_id, file_id, body.attributes or {}
        ),
    )
    if row is None:
        raise no_file(file_id)
    return reply(attachment_object(row))


async def detach(request: Request, services: Services, store_id: str, file_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    if not await writing(
        services, lambda conn: catalog.detach_file(conn, tenant.tenant_id, store_id, file_id)
    ):
        raise no_file(file_id)
    return reply({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})


async def search(request: Request, services: Services, store_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _SEARCH)
    if body.filters is not None:
        raise InvalidRequest("filters is not supported yet.", code="unsupported_value", param="filters")
    queries = [body.query] if isinstance(body.query, str) else body.query
    query = query_text(queries, services.settings.max_question_chars)
    row = await reading(services, lambda conn: catalog.get_collection(conn, tenant.tenant_id, store_id))
    if row is None:
        raise no_store(store_id)
    scope = Scope(tenant_id=tenant.tenant_id, collections=[store_id], k=body.max_num_results)
    with services.lifecycle:
        found = await services.retriever.retrieve(query, scope, timeout_s=SEARCH_TIMEOUT_S)
    attributes = await reading(
        services,
        lambda conn: {
            file_id: attachment.attributes
            for file_id in {passage.file_id for passage in found.passages}
            if (attachment := catalog.get_attachment(conn, tenant.tenant_id, store_id, file_id))
        },
    )
    threshold = (body.ranking_options.score_threshold or 0.0) if body.ranking_options else 0.0
    data = [
        _hit(passage, attributes.get(passage.file_id, {}))
        for passage in found.passages
        if passage.score >= threshold
    ]
    return reply(
        {
            "object": "vector_store.search_results.page",
            "search_query": queries,
            "data": data,
            "has_more": False,
            "next_page": None,
        }
    )


def _hit(passage: Passage, attributes: dict[str, object]) -> dict[str, object]:
    return {
        "file_id": passage.file_id,
        "filename": passage.filename,
        "score": passage.score,
        "attributes": attributes,
        "content": [{"type": "text", "text": passage.text}],
        "tidegate": {
            "chunk_id": passage.chunk_id,
            "heading": passage.heading,
            "start": passage.start,
            "end": passage.end,
        },
    }
