"""POST /admin/alerts: what Alertmanager sends, and what is done about it. Needs an admin key.

An alert asks for an action by its labels; docs/watching.md lists them. Each firing and each resolution of an alert
is acted on once, whoever repeats it; at most MAX_ACTIONS an hour are done; every decision leaves an audit line.
"""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec
from msgspec import Meta
from redis.exceptions import RedisError
from sanic import HTTPResponse, Request

from gateway.api.alert_memory import MAX_ACTIONS, Alert, Labels, Refused, Text
from gateway.api.auth import http_caller
from gateway.api.decode import json_body
from gateway.api.services import Services
from gateway.errors import InvalidRequest, UpstreamUnavailable
from gateway.tiering.ladder import STEPS, Orders, Step

audit = logging.getLogger("tidegate.audit")

VERSION = "4"  # of Alertmanager's payload
ACTIONS = ("shed", "drain", "restart")


class Notification(msgspec.Struct, frozen=True, rename="camel"):
    version: Text
    alerts: Annotated[list[Alert], Meta(max_length=500)]


class Done(msgspec.Struct, frozen=True):
    """What became of one alert. result: done, unchanged, repeated, ignored, dry_run, limited, refused, failed."""

    alert: str
    status: str
    action: str
    target: str
    result: str
    detail: str = ""


_decoder = msgspec.json.Decoder(Notification)


async def receive(request: Request, services: Services) -> HTTPResponse:
    """Act on each alert. 503 when something could not be done now, so that Alertmanager sends it again.

    Raises: InvalidRequest for what is no notification of version 4.
    """
    operator = await services.auth.admin(http_caller(request))
    sent = json_body(request, _decoder)
    if sent.version != VERSION:
        raise InvalidRequest(
            f"The notification's version is {sent.version[:20]!r}; Alertmanager's {VERSION!r} was expected.",
            code="invalid_value",
            param="version",
        )
    done = []
    for alert in sent.alerts:
        one = await _decide(services, alert)
        done.append(one)
        services.metrics.alert_actions.labels(one.action, one.result).inc()
        audit.warning(
            "alert=%s status=%s action=%s target=%s result=%s key=%s fingerprint=%s detail=%s",
            one.alert, one.status, one.action, one.target or "-", one.result,
            operator.key_id or "-", alert.fingerprint, one.detail or "-",
        )  # fmt: skip
    status = 503 if any(one.result == "failed" for one in done) else 200
    return HTTPResponse(
        msgspec.json.encode({"object": "list", "data": done}), status=status, content_type="application/json"
    )


async def _decide(services: Services, alert: Alert) -> Done:
    labels = alert.labels
    action, name = labels.get("action", ""), labels.get("alertname", "")[:100]
    if not action:
        return Done(name, alert.status, "none", "", "ignored")
    target = labels.get("step", "") if action == "shed" else _target(labels)

    def done(result: str, detail: str = "") -> Done:
        shown = (
            action if action in ACTIONS else "unknown"
        )  # a label of a metric: nothing that callers make up
        return Done(name, alert.status, shown, target[:100], result, detail)

    if action not in ACTIONS:
        return done("refused", f"There is no action {action[:50]!r}; there are: {', '.join(ACTIONS)}.")
    if services.settings.alert_actions == "dry_run":
        return done("dry_run")
    memory = services.alert_memory
    if not await memory.is_new(alert):
        return done("repeated")
    if alert.status == "firing" and not await memory.may_act():
        return done("limited", f"More than {MAX_ACTIONS} actions within an hour.")
    try:
        if action == "shed":
            return done(await _shed(services, alert))
        return done(*await _order(services, alert, action))
    except Refused as refused:
        return done("refused", str(refused))
    except UpstreamUnavailable as error:
        await memory.forget(alert)
        return done("failed", error.message)


def _target(labels: Labels) -> str:
    return " ".join(filter(None, (labels.get("part", ""), labels.get("instance", ""))))


async def _order(services: Services, alert: Alert, action: str) -> tuple[str, str]:
    """Returns the result and the process's name. Raises: Refused, UpstreamUnavailable."""
    if services.part_orders is None:
        raise Refused(
            "Here the cluster starts and stops the processes, and the gateway has no right to ask it to."
        )
    where = alert.labels.get("part", ""), alert.labels.get("instance", "")
    if alert.status == "firing":
        order = services.part_orders.drain if action == "drain" else services.part_orders.restart
        return "done", await order(*where)
    if action == "drain":
        name = await services.part_orders.resume(*where)
        return ("done" if name else "unchanged"), name
    return "unchanged", ""


async def _shed(services: Services, alert: Alert) -> str:
    """Pin the alert's step while it fires. What an operator has pinned or forbidden stays as it is.

    Raises: Refused, UpstreamUnavailable.
    """
    wanted = alert.labels.get("step", "")
    if wanted not in STEPS:
        raise Refused(f"There is no step {wanted[:50]!r}; there are: {', '.join(STEPS)}.")
    step, memory, orders = Step(wanted), services.alert_memory, services.pipeline.ladders.orders
    try:
        if alert.status == "resolved":
            if not await memory.unpin(step, alert.fingerprint) or step not in orders.pinned:
                return "unchanged"
            pinned = [each for each in orders.pinned if each != step]
        else:
            if step in orders.forbidden:
                raise Refused(f"The operator has forbidden the step {wanted!r}.")
            if step in orders.pinned and not await memory.is_pinned(step):
                return "unchanged"  # an operator's own order
            await memory.pin(step, alert.fingerprint)
            pinned = [*orders.pinned, step]
    except (RedisError, OSError, TimeoutError) as error:
        raise UpstreamUnavailable(
            "The order could not be shared: Redis does not answer.", detail=str(error)
        ) from error
    if set(pinned) != set(orders.pinned):
        await services.ladder_orders.write(msgspec.json.encode(Orders(pinned, orders.forbidden).checked()))
    return "done"
