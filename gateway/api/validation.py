"""A chat request checked and made ready for the pipeline: the same rules for every door.

Owns what a value may be beyond its type, and the sentences that refuse it. Refuses to know HTTP and gRPC.
"""

from __future__ import annotations

import asyncio
import time

import msgspec

from gateway import filters
from gateway.api import memory
from gateway.api.collections import collection_ids
from gateway.api.decode import clean_text
from gateway.api.schemas import AsSchema, ChatBody, Message
from gateway.api.services import Services
from gateway.chat import ChatRequest
from gateway.errors import InvalidRequest, Rejected
from gateway.lifecycle import State
from gateway.pipeline.handover import Trail
from gateway.types import Sampling, Tenant, Turn

MAX_SCHEMA_BYTES = 64 * 2**10  # as the models on Triton take it
MAX_SCHEMA_DEPTH = 32
# A tool's words are the client's own memory; `developer` is the newer name of `system`.
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def check_takes_work(services: Services) -> None:
    """Raises: AdmissionError while this worker takes no new request: it stops, or its memory is short."""
    services.memory.check()
    if not services.lifecycle.takes_work:
        raise stopping()


def stopping() -> Rejected:
    """What a request is told that this worker does not begin, or does not finish, because it stops."""
    return Rejected("The service is stopping; ask again in a moment.", code="draining", retry_after_s=2)


def go_on_if_stopping(services: Services) -> None:
    """After a cancel. Raises: CancelledError, unless it was ours, at the end of a drain: then the client is told."""
    task = asyncio.current_task()
    if services.lifecycle.state is not State.STOPPED or task is None:
        raise asyncio.CancelledError
    task.uncancel()


async def chat_request(
    body: ChatBody, tenant: Tenant, services: Services, *, received: float, request_id: str
) -> ChatRequest:
    """A pipeline request from the wire's. received: monotonic seconds. Raises: InvalidRequest, NotFound."""
    settings, extension = services.settings, body.tidegate
    _refuse_unsupported(body)
    if extension.filters is not None:
        filters.check(extension.filters, "tidegate.filters")
    if len(body.messages) > settings.max_messages:
        raise too_many_messages(settings.max_messages)
    for index, message in enumerate(body.messages):
        clean_text(message.text(), f"messages[{index}].content", max_chars=settings.max_question_chars)
    history, question = _conversation(body.messages)
    conversation = memory.conversation_id(body)
    if extension.deadline_ms is not None and extension.deadline_ms <= 0:
        raise InvalidRequest(
            "tidegate.deadline_ms has passed already; it counts milliseconds from now.",
            code="deadline_expired",
            param="tidegate.deadline_ms",
        )
    # an unknown model is told before anything else is done
    services.pipeline.tiers.check(body.model, tenant)
    without_documents = extension.retrieval == "off"
    if without_documents:
        services.pipeline.tiers.check_writes(body.model, tenant)
    sampling = _sampling(body)
    if sampling.json_schema:
        services.pipeline.tiers.check_schemas(body.model, tenant)
    earlier = await memory.history(services, tenant, conversation) if conversation else []
    timeout_s = settings.request_timeout_s
    if extension.deadline_ms is not None:
        timeout_s = min(timeout_s, extension.deadline_ms / 1000)
    return ChatRequest(
        id=request_id,
        tenant=tenant,
        model=body.model,
        question=question,
        history=[*earlier, *history],
        sampling=sampling,
        collections=await collection_ids(services, tenant, extension.collections or []),
        without_documents=without_documents,
        top_k=extension.top_k,
        filters=extension.filters,
        priority=extension.priority,
        cache=extension.cache,
        ticket=extension.ticket,
        received=received,
        deadline=received + timeout_s,
        has_own_deadline=timeout_s < settings.request_timeout_s,
        created=int(time.time()),
        conversation=conversation,
        trail=Trail(),
    )


def too_many_messages(limit: int) -> InvalidRequest:
    return InvalidRequest(
        f"messages has more than {limit} entries (TIDEGATE_MAX_MESSAGES).",
        code="too_many_messages",
        param="messages",
    )


def query_text(texts: list[str], max_chars: int) -> str:
    """What a search looks for. Raises: InvalidRequest for nothing, for too much and for NULs."""
    query = "\n".join(clean_text(text, "query", max_chars=max_chars) for text in texts).strip()
    if not query:
        raise InvalidRequest("query is empty.", param="query")
    return query


def _refuse_unsupported(body: ChatBody) -> None:
    field = body.unsupported()
    if field is not None:
        raise InvalidRequest(
            f"{field} is not supported by this service.", code="unsupported_value", param=field
        )


def _conversation(messages: list[Message]) -> tuple[list[Turn], str]:
    """What was said before the question, and the question: the last user message. What follows it is left out."""
    last = next((at for at in reversed(range(len(messages))) if messages[at].role == "user"), None)
    question = messages[last].text().strip() if last is not None else ""
    if not question:
        raise InvalidRequest(
            "messages holds no user message with text.", code="no_question", param="messages"
        )
    earlier = [(_ROLES.get(message.role), message.text()) for message in messages[:last]]
    return [Turn(role, text) for role, text in earlier if role and text.strip()], question


def _sampling(body: ChatBody) -> Sampling:
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    return Sampling(
        max_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=stop,
        json_schema=_schema(body),
    )


def _schema(body: ChatBody) -> str:
    """What the answer must hold to. Raises: InvalidRequest for more than an engine should be given."""
    if not isinstance(body.response_format, AsSchema):
        return ""
    schema = body.response_format.json_schema.schema
    text = msgspec.json.encode(schema)
    if len(text) > MAX_SCHEMA_BYTES or _depth(schema) > MAX_SCHEMA_DEPTH:
        raise InvalidRequest(
            f"The JSON Schema has more than {MAX_SCHEMA_BYTES} bytes, or more than {MAX_SCHEMA_DEPTH} levels.",
            code="invalid_value",
            param="response_format.json_schema.schema",
        )
    return text.decode()


def _depth(value: object) -> int:
    level, depth = [value], 0
    while level:
        depth += 1
        inner = [
            each.values() if isinstance(each, dict) else each
            for each in level
            if isinstance(each, dict | list)
        ]
        level = [each for values in inner for each in values]
    return depth
