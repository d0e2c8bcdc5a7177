"""GET /v1/models: the tiers, `auto`, and the embedding model."""

from __future__ import annotations

import msgspec
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.services import Services
from gateway.errors import NotFound
from gateway.tensors import EMBEDDING_DIM
from gateway.tiering.tiers import AUTO
from gateway.types import DEFAULT_EMBEDDER, Tenant

CREATED = 1_763_769_600  # a fixed date: the models ship with the release


def _models(services: Services, tenant: Tenant) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        _model(AUTO, {"kind": "router", "description": "Chooses the tier for each question and says why."})
    ]
    for tier in services.pipeline.tiers.offered(tenant):
        about = {
            "kind": "chat",
            "description": tier.description,
            "slots": tier.slots,
            "num_passages": tier.num_passages,
        }
        if tier.is_generative:
            about |= {
                "context_tokens": tier.context_tokens,
                "engine": "upstream" if tier.is_remote else "triton",
                "fallback": list(tier.fallback),
                "json_schema": tier.keeps_schemas,
            }
        rows.append(_model(tier.name, about))
    rows.append(
        _model(
            DEFAULT_EMBEDDER,
            {"kind": "embedding", "description": "Sentence embeddings.", "dim": EMBEDDING_DIM},
        )
    )
    return rows


def _model(name: str, about: dict[str, object]) -> dict[str, object]:
    return {"id": name, "object": "model", "created": CREATED, "owned_by": "tidegate", "tidegate": about}


async def list_models(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    reply = {"object": "list", "data": _models(services, tenant)}
    return HTTPResponse(msgspec.json.encode(reply), content_type="application/json")


async def get_model(request: Request, services: Services, model: str) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    for row in _models(services, tenant):
        if row["id"] == model:
            return HTTPResponse(msgspec.json.encode(row), content_type="application/json")
    raise NotFound(f"The model {model[:100]!r} does not exist.", code="model_not_found", param="model")
