"""GET /v1/receipts/{id}."""

from __future__ import annotations

import re

from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.services import Services
from gateway.errors import NotFound

_ID = re.compile(r"chatcmpl-[0-9a-f]{32}\Z")


async def get_receipt(request: Request, services: Services, receipt_id: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    found = None
    if _ID.match(receipt_id):
        found = await services.recorder.find(tenant.tenant_id, receipt_id)
    if found is None:
        raise NotFound(f"No such receipt: {receipt_id[:100]}.", code="receipt_not_found", param="receipt_id")
    return HTTPResponse(found, content_type="application/json")
