"""/v1/vector_stores: collections in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import clean_text, json_body
from gateway.api.files import no_file
from gateway.api.listings import cut_of, page
from gateway.api.reply import reply
from gateway.api.schemas import (
    AttachBody,
    AttributesBody,
    VectorStoreBody,
    VectorStoreUpdate,
)
from gateway.api.services import Services
from gateway.api.transactions import reading, writing
from gateway.embedding.registry import embedder_names
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog, progress
from gateway.storage.catalog import AttachmentRow, CollectionRow, FileCounts, Progress
from gateway.storage.progress import ChunkCounts
from gateway.types import DEFAULT_EMBEDDER

_CREATE = msgspec.json.Decoder(VectorStoreBody)
_UPDATE = msgspec.json.Decoder(VectorStoreUpdate)
_ATTACH = msgspec.json.Decoder(AttachBody)
_ATTRIBUTES = msgspec.json.Decoder(AttributesBody)
STATUSES = ("in_progress", "completed", "failed", "cancelled")


def no_store(store_id: str) -> NotFound:
    return NotFound(
        f"No such vector store: {store_id[:100]}.", code="vector_store_not_found", param="vector_store_id"
    )


class StoreState(NamedTuple):
    """What is counted of a store beside its row. change: None when it keeps its embedder."""

    files: FileCounts
    chunks: ChunkCounts
    change: Progress | None


def store_object(row: CollectionRow, state: StoreState) -> dict[str, object]:
    names = ("in_progress", "completed", "failed", "cancelled", "total")
    files = {name: getattr(state.files, name) for name in names}
    return {
        "id": row.id,
        "object": "vector_store",
        "created_at": row.created_at,
        "last_active_at": row.created_at,
        "name": row.name,
        "status": "in_progress" if files["in_progress"] else "completed",
        "usage_bytes": state.files.usage_bytes,
        "file_counts": files,
        "metadata": row.metadata,
        "expires_after": None,
        "expires_at": None,
        "tidegate": {
            "epoch": row.epoch,
            "num_chunks": state.chunks.num_chunks,
            "chunks_done": state.chunks.num_done,
            "embedder": row.embedder,
            "next_embedder": row.next_embedder,
            "reembedding": state.change,
        },
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
        "tidegate": {
            "num_chunks": row.num_chunks,
            "chunks_done": row.chunks_done,
            "replaces": row.replaces,
        },
    }


async def _shown(services: Services, rows: list[CollectionRow]) -> list[dict[str, object]]:
    """The stores of one tenant."""
    ids = [row.id for row in rows]

    def look_up(conn: sa.Connection) -> dict[str, StoreState]:
        if not rows:
            return {}
        tenant_id = rows[0].tenant_id
        files = catalog.count_files(conn, ids)
        chunks = progress.count_chunks(conn, tenant_id, ids)
        changes = catalog.reembedding_progress(conn, tenant_id, ids)
        return {
            each: StoreState(files[each], chunks.get(each, ChunkCounts()), changes.get(each)) for each in ids
        }

    states = await reading(services, look_up)
    return [store_object(row, states[row.id]) for row in rows]


async def create(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _CREATE)
    if body.expires_after is not None:
        raise InvalidRequest(
            "expires_after is not supported.", code="unsupported_value", param="expires_after"
        )
    name = clean_text(body.name or "", "name", max_chars=256)
    embedder = _known_embedder(services, body.tidegate.embedder) or DEFAULT_EMBEDDER

    def work(conn: sa.Connection) -> CollectionRow:
        row = catalog.create_collection(conn, tenant.tenant_id, name, body.metadata or {}, embedder=embedder)
        if body.file_ids:
            catalog.attach_files(conn, tenant.tenant_id, row.id, body.file_ids, {})
        return row

    row = await writing(services, work)
    if body.file_ids:
        await services.wake_ingest()
    return reply((await _shown(services, [row]))[0])


def _known_embedder(services: Services, name: str | None) -> str | None:
    """Raises: InvalidRequest that names those there are."""
    names = embedder_names(services.settings)
    if name is not None and name not in names:
        raise InvalidRequest(
            f"There is no embedder {name[:100]!r}; there are: {', '.join(names)}.",
            code="embedder_not_found",
            param="tidegate.embedder",
        )
    return name


async def list_stores(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    cut, before = cut_of(request), request.args.get("before")
    rows, has_more = await reading(
        services, lambda conn: catalog.list_collections(conn, tenant.tenant_id, before=before, **cut)
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
    embedder = _known_embedder(services, body.tidegate.embedder)

    def work(conn: sa.Connection) -> CollectionRow | None:
        row = catalog.update_collection(
            conn, tenant.tenant_id, store_id, name=body.name, metadata=body.metadata
        )
        if row is None or embedder is None:
            return row
        return catalog.start_reembedding(conn, tenant.tenant_id, store_id, embedder)

    row = await writing(services, work)
    if row is None:
        raise no_store(store_id)
    if embedder is not None:
        await services.wake_ingest()
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
        return catalog.attach_file(
            conn,
            tenant.tenant_id,
            store_id,
            body.file_id,
            body.attributes or {},
            replaces=body.tidegate.replaces,
        )

    row = await writing(services, work)
    await services.wake_ingest()
    return reply(attachment_object(row))


async def list_attachments(request: Request, services: Services, store_id: str) -> HTTPResponse:
    def there(conn: sa.Connection, tenant_id: str) -> None:
        if catalog.get_collection(conn, tenant_id, store_id) is None:
            raise no_store(store_id)

    return await attachments_page(request, services, store_id, there)


async def attachments_page(
    request: Request,
    services: Services,
    store_id: str,
    there: Callable[[sa.Connection, str], None],
    batch_id: str | None = None,
) -> HTTPResponse:
    """The files of a collection, or of one batch in it, as the query says. there: raises NotFound for the tenant."""
    tenant = await services.auth.tenant(http_caller(request))
    cut, status, before = cut_of(request), request.args.get("filter"), request.args.get("before")
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"filter must be one of: {', '.join(STATUSES)}.", param="filter")

    def work(conn: sa.Connection) -> tuple[list[AttachmentRow], bool]:
        there(conn, tenant.tenant_id)
        return catalog.list_attachments(
            conn, tenant.tenant_id, store_id, status=status, before=before, batch_id=batch_id, **cut
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
