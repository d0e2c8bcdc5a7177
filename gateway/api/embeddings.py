"""POST /v1/embeddings: the `embed` model of Triton in OpenAI's shape."""

from __future__ import annotations

import asyncio
import base64
import time

import msgspec
import numpy as np
import numpy.typing as npt
from sanic import HTTPResponse, Request

from gateway.api.auth import http_caller
from gateway.api.decode import clean_text, json_body
from gateway.api.limits import count_tokens, metered, told_limits
from gateway.api.schemas import EmbeddingsBody
from gateway.api.services import Services
from gateway.errors import InvalidRequest, NotFound
from gateway.pipeline import traced
from gateway.tensors import EMBEDDING_DIM
from gateway.types import DEFAULT_EMBEDDER, Tenant

_BODY = msgspec.json.Decoder(EmbeddingsBody)
MAX_TEXTS = 2048
TIMEOUT_S = 50.0  # below the edge's 60
ROWS_AT_ONCE = 64  # encoded before the loop gets a turn


async def embeddings(request: Request, services: Services) -> HTTPResponse:
    tenant = await services.auth.tenant(http_caller(request))
    body = json_body(request, _BODY)
    texts = _texts(body, services.settings.max_question_chars)
    return await told_limits(services, tenant, _embedded(services, tenant, texts, body.encoding_format))


async def _embedded(services: Services, tenant: Tenant, texts: list[str], encoding: str) -> HTTPResponse:
    deadline = time.monotonic() + TIMEOUT_S
    num_tokens = await count_tokens(services, texts)
    async with metered(services, tenant, num_tokens, name=DEFAULT_EMBEDDER, id_prefix="embd"):
        left_s = max(deadline - time.monotonic(), 0.001)
        with traced.embedding(DEFAULT_EMBEDDER, num_tokens):
            vectors = await services.vectors.embed(tenant.tenant_id, texts, role="passage", timeout_s=left_s)
    data: list[msgspec.Raw] = []
    for start in range(0, len(texts), ROWS_AT_ONCE):
        rows = vectors[start : start + ROWS_AT_ONCE]
        data += [_row(start + offset, row, encoding) for offset, row in enumerate(rows)]
        await asyncio.sleep(0)
    reply = {
        "object": "list",
        "model": DEFAULT_EMBEDDER,
        "data": data,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return HTTPResponse(msgspec.json.encode(reply), content_type="application/json")


def _row(index: int, vector: npt.NDArray[np.float32], encoding: str) -> msgspec.Raw:
    shown = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
    return msgspec.Raw(msgspec.json.encode({"object": "embedding", "index": index, "embedding": shown}))


def _texts(body: EmbeddingsBody, max_chars: int) -> list[str]:
    if body.model != DEFAULT_EMBEDDER:
        raise NotFound(
            f"The embedding model {body.model!r} does not exist; use {DEFAULT_EMBEDDER}.",
            code="model_not_found",
            param="model",
        )
    if body.dimensions not in (None, EMBEDDING_DIM):
        raise InvalidRequest(
            f"dimensions must be {EMBEDDING_DIM} for {DEFAULT_EMBEDDER}.", param="dimensions"
        )
    given = [body.input] if isinstance(body.input, str) else body.input
    if not given:
        raise InvalidRequest("input is empty.", param="input")
    if len(given) > MAX_TEXTS:
        raise InvalidRequest(f"input has {len(given)} texts; the limit is {MAX_TEXTS}.", param="input")
    texts: list[str] = []
    for index, text in enumerate(given):
        if not isinstance(text, str):
            raise InvalidRequest("input must be text; token ids are not accepted.", param=f"input[{index}]")
        if not text:
            raise InvalidRequest("input holds an empty text.", param=f"input[{index}]")
        texts.append(clean_text(text, f"input[{index}]", max_chars=max_chars))
    return texts
