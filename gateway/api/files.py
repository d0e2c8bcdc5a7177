"""/v1/files: bytes on disk, a row in SQL; OpenAI's shapes."""

from __future__ import annotations

import asyncio
import secrets

from sanic import HTTPResponse, Request
from sanic.response import ResponseStream, file_stream

from gateway.api.auth import http_caller
from gateway.api.file_text import as_object, as_text, content_format
from gateway.api.listings import cut_of, page
from gateway.api.reply import reply
from gateway.api.services import Services
from gateway.api.transactions import reading
from gateway.api.uploads import receive
from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog
from gateway.storage.catalog import FileRow

DOWNLOAD_BYTES = 256 * 1024  # read at once, each time in a thread
PURPOSES = ("assistants", "user_data")


def file_object(row: FileRow) -> dict[str, object]:
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.num_bytes,
        "created_at": row.created_at,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
        "tidegate": {"sha256": row.sha256},
    }


def no_file(file_id: str) -> NotFound:
    return NotFound(f"No such file: {file_id[:100]}.", code="file_not_found", param="file_id")


async def create(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    file_id = f"file-{secrets.token_hex(12)}"
    with services.lifecycle:
        writer = await asyncio.to_thread(services.blobs.open_writer, tenant.tenant_id, file_id)
        try:
            form = await receive(request, writer, services.settings.max_file_bytes)
            purpose = form.fields.get("purpose", "")
            if purpose not in PURPOSES:
                raise InvalidRequest(f"purpose must be one of: {', '.join(PURPOSES)}.", param="purpose")
        except BaseException:
            await asyncio.shield(asyncio.to_thread(writer.abort))
            raise

        def store() -> FileRow:
            num_bytes, sha256 = writer.commit()
            with services.database.write() as conn:
                return catalog.create_file(
                    conn,
                    tenant_id=tenant.tenant_id,
                    file_id=file_id,
                    filename=form.filename or "unnamed",
                    purpose=purpose,
                    num_bytes=num_bytes,
                    sha256=sha256,
                )

        row = await asyncio.to_thread(store)
    return reply(file_object(row))


async def list_files(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    cut, purpose = cut_of(request, limit=100), request.args.get("purpose")
    rows, has_more = await reading(
        services, lambda conn: catalog.list_files(conn, tenant.tenant_id, purpose=purpose, **cut)
    )
    return page([file_object(row) for row in rows], has_more)


async def _row(request: Request, services: Services, file_id: str) -> FileRow:
    tenant = await services.auth.tenant(http_caller(request))
    row = await reading(services, lambda conn: catalog.get_file(conn, tenant.tenant_id, file_id))
    if row is None:
        raise no_file(file_id)
    return row


async def get(request: Request, services: Services, file_id: str) -> HTTPResponse:
    return reply(file_object(await _row(request, services, file_id)))


async def content(request: Request, services: Services, file_id: str) -> HTTPResponse | ResponseStream:
    """The file's own bytes, as a download: never rendered by a browser in our origin. Or its text, see `file_text`."""
    row = await _row(request, services, file_id)
    match content_format(request):
        case "text":
            return await as_text(request, services, row)
        case "json":
            return reply(await as_object(request, services, row))
    path = services.blobs.path(row.tenant_id, row.id)
    headers = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
    if not await asyncio.to_thread(path.is_file):
        raise no_file(file_id)
    return await file_stream(
        path, headers=headers, mime_type="application/octet-stream", chunk_size=DOWNLOAD_BYTES
    )


async def delete(request: Request, services: Services, file_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))

    def remove() -> bool:
        with services.database.write() as conn:
            found = catalog.delete_file(conn, tenant.tenant_id, file_id)
        if found:
            services.blobs.delete(tenant.tenant_id, file_id)
        return found

    if not await asyncio.to_thread(remove):
        raise no_file(file_id)
    return reply({"id": file_id, "object": "file", "deleted": True})
