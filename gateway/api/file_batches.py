"""/v1/vector_stores/{id}/file_batches: many files attached in one call, and how far they are; OpenAI's shapes."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import json_body
from gateway.api.reply import reply
from gateway.api.schemas import BatchBody
from gateway.api.services import Services
from gateway.api.transactions import reading, writing
from gateway.api.vector_stores import attachments_page, no_store
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog, progress
from gateway.storage.ids import new_id
from gateway.storage.progress import Batch

_BATCH = msgspec.json.Decoder(BatchBody)


def batch_object(batch: Batch) -> dict[str, object]:
    counts = {
        name: getattr(batch.files, name)
        for name in ("in_progress", "completed", "failed", "cancelled", "total")
    }
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at,
        "vector_store_id": batch.collection_id,
        "status": _status(counts),
        "file_counts": counts,
        "tidegate": {"num_chunks": batch.chunks.num_chunks, "chunks_done": batch.chunks.num_done},
    }


def _status(counts: dict[str, int]) -> str:
    if counts["in_progress"]:
        return "in_progress"
    if counts["cancelled"]:
        return "cancelled"
    return "failed" if counts["failed"] == counts["total"] else "completed"


def no_batch(batch_id: str) -> NotFound:
    return NotFound(f"No such file batch: {batch_id[:100]}.", code="file_batch_not_found", param="batch_id")


async def create(request: Request, services: Services, store_id: str) -> HTTPResponse:
    """All of the files, or, when one of them is not there, none."""
    tenant = await services.auth.tenant(http_caller(request))
    groups = _groups(json_body(request, _BATCH))
    batch_id = new_id("vsfb_")

    def work(conn: sa.Connection) -> Batch | None:
        if catalog.get_collection(conn, tenant.tenant_id, store_id) is None:
            raise no_store(store_id)
        for file_ids, attributes in groups:
            catalog.attach_files(conn, tenant.tenant_id, store_id, file_ids, attributes, batch_id=batch_id)
        return progress.get_batch(conn, tenant.tenant_id, store_id, batch_id)

    batch = await writing(services, work)
    await services.wake_ingest()
    return _shown(batch, batch_id)


def _groups(body: BatchBody) -> list[tuple[list[str], dict[str, Any]]]:
    """Files that share their attributes. Raises: InvalidRequest unless exactly one of the two lists is there."""
    if bool(body.file_ids) == bool(body.files):
        raise InvalidRequest("Give either file_ids or files, with at least one file.", param="file_ids")
    if body.files:
        return [([each.file_id], each.attributes or {}) for each in body.files]
    return [(body.file_ids, body.attributes or {})]


async def get(request: Request, services: Services, store_id: str, batch_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    found = await reading(
        services, lambda conn: progress.get_batch(conn, tenant.tenant_id, store_id, batch_id)
    )
    return _shown(found, batch_id)


async def cancel(request: Request, services: Services, store_id: str, batch_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    found = await writing(
        services, lambda conn: progress.cancel_batch(conn, tenant.tenant_id, store_id, batch_id)
    )
    return _shown(found, batch_id)


def _shown(batch: Batch | None, batch_id: str) -> HTTPResponse:
    if batch is None:
        raise no_batch(batch_id)
    return reply(batch_object(batch))


async def list_files(request: Request, services: Services, store_id: str, batch_id: str) -> HTTPResponse:
    def there(conn: sa.Connection, tenant_id: str) -> None:
        if progress.get_batch(conn, tenant_id, store_id, batch_id) is None:
            raise no_batch(batch_id)

    return await attachments_page(request, services, store_id, there, batch_id)
