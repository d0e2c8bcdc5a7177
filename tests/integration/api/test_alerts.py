"""Alertmanager's notifications at /admin/alerts: what each does, once, and what is refused."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from gateway.api.alert_memory import MAX_ACTIONS, AlertMemory, Refused
from gateway.errors import UpstreamUnavailable
from gateway.storage.shared_note import SharedNote
from gateway.supervise.pod_orders import PodOrders
from tests.fakes.cluster_api import ClusterApi, pod
from tests.integration.api.conftest import Gateway, free_port

PATH = "/admin/alerts"
_numbers = itertools.count()


class Parts:
    """Writes down what it is told. is_away: the process manager does not answer. last: the last of its kind.
    replaces: what was drained was replaced, as in a cluster."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str, str]] = []
        self.is_away = self.last = self.replaces = False

    async def restart(self, part: str, instance: str) -> str:
        return self._take("restart", part, instance)

    async def drain(self, part: str, instance: str) -> str:
        if self.last:
            raise Refused("gateway-0 is the last of its kind.")
        return self._take("drain", part, instance)

    async def resume(self, part: str, instance: str) -> str:
        if self.replaces:
            return ""
        return self._take("resume", part, instance)

    def _take(self, order: str, part: str, instance: str) -> str:
        if self.is_away:
            raise UpstreamUnavailable("The process manager did not do it.")
        self.orders.append((order, part, instance))
        return f"{part}-0"


@pytest.fixture
def parts(gateway: Gateway) -> Parts:
    made = Parts()
    gateway.services.part_orders = made
    return made


@pytest.fixture(autouse=True)
async def a_fresh_hour(gateway: Gateway) -> None:
    """All tests share one Redis, and so one hour's count."""
    await gateway.services.redis.delete("tidegate:alert:actions")


def alert(status: str = "firing", fingerprint: str = "", **labels: str) -> dict[str, Any]:
    return {
        "status": status,
        "labels": {"alertname": "TidegateTest", **labels},
        "annotations": {"summary": "."},
        "startsAt": "2026-01-02T03:04:05Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus/graph",
        "fingerprint": fingerprint or f"{gateway_unique()}",
    }


def gateway_unique() -> str:
    return f"{free_port()}-{next(_numbers)}"


async def send(gateway: Gateway, *alerts: dict[str, Any], key: str = "operator") -> httpx.Response:
    body = {
        "version": "4",
        "receiver": "actions",
        "status": "firing",
        "groupKey": "{}",
        "alerts": list(alerts),
    }
    return await gateway.client.post(PATH, json=body, headers=gateway.auth(key))


async def results(gateway: Gateway, *alerts: dict[str, Any]) -> list[str]:
    reply = await send(gateway, *alerts)
    assert reply.status_code == 200, reply.text
    return [row["result"] for row in reply.json()["data"]]


def pinned(gateway: Gateway) -> list[str]:
    return [step.value for step in gateway.services.pipeline.ladders.orders.pinned]


async def test_a_shed_holds_while_its_alert_fires(gateway: Gateway) -> None:
    one = alert(action="shed", step="shorter_answers")
    assert await results(gateway, one) == ["done"]
    assert pinned(gateway) == ["shorter_answers"]
    assert (await gateway.ask()).json()["tidegate"]["receipt"]["degraded"] == ["shorter_answers"]
    assert await results(gateway, one | {"status": "resolved"}) == ["done"]
    assert pinned(gateway) == []


async def test_a_step_stays_until_the_last_alert_that_wants_it_is_over(gateway: Gateway) -> None:
    one, two = alert(action="shed", step="no_rerank"), alert(action="shed", step="no_rerank")
    assert await results(gateway, one, two) == ["done", "done"]
    assert await results(gateway, one | {"status": "resolved"}) == ["unchanged"]
    assert pinned(gateway) == ["no_rerank"]
    assert await results(gateway, two | {"status": "resolved"}) == ["done"]
    assert pinned(gateway) == []


async def test_what_the_operator_ordered_outlives_the_alert(gateway: Gateway) -> None:
    orders = {"pinned": ["smaller_tier"], "forbidden": ["refuse"]}
    await gateway.client.put("/admin/ladder", json=orders, headers=gateway.auth("operator"))
    one = alert(action="shed", step="smaller_tier")
    assert await results(gateway, one) == ["unchanged"]
    assert await results(gateway, one | {"status": "resolved"}) == ["unchanged"]
    assert pinned(gateway) == ["smaller_tier"]
    assert await results(gateway, alert(action="shed", step="refuse")) == ["refused"]
    assert pinned(gateway) == ["smaller_tier"]


async def test_parts_are_restarted_drained_and_taken_back(gateway: Gateway, parts: Parts) -> None:
    where = {"part": "triton", "instance": "127.0.0.1:8302"}
    drain, restart = alert(action="drain", **where), alert(action="restart", part="ingest")
    assert await results(gateway, drain, restart) == ["done", "done"]
    resolved = [each | {"status": "resolved"} for each in (drain, restart)]
    assert await results(gateway, *resolved) == ["done", "unchanged"]
    assert parts.orders == [
        ("drain", "triton", "127.0.0.1:8302"),
        ("restart", "ingest", ""),
        ("resume", "triton", "127.0.0.1:8302"),
    ]


async def test_each_firing_is_acted_on_once_by_whichever_worker_hears_of_it(
    gateway: Gateway, parts: Parts
) -> None:
    one = alert(action="restart", part="ingest")
    assert await results(gateway, one) == ["done"]
    assert await results(gateway, one) == ["repeated"]
    gateway.services.alert_memory = AlertMemory(gateway.services.redis)  # of another worker
    assert await results(gateway, one) == ["repeated"]
    assert await results(gateway, one | {"startsAt": "2026-01-03T00:00:00Z"}) == ["done"]
    assert len(parts.orders) == 2


async def test_an_hour_has_a_most_of_actions(gateway: Gateway, parts: Parts) -> None:
    many = [alert(action="restart", part="ingest") for _ in range(MAX_ACTIONS + 2)]
    assert await results(gateway, *many) == ["done"] * MAX_ACTIONS + ["limited"] * 2
    assert len(parts.orders) == MAX_ACTIONS


async def test_what_could_not_be_done_is_sent_again_and_done_then(gateway: Gateway, parts: Parts) -> None:
    parts.is_away = True
    one = alert(action="restart", part="ingest")
    refused = await send(gateway, one)
    assert (refused.status_code, refused.json()["data"][0]["result"]) == (503, "failed")
    parts.is_away = False
    assert await results(gateway, one) == ["done"]


async def test_without_redis_a_worker_goes_by_its_own_memory(gateway: Gateway, parts: Parts) -> None:
    gone: Any = Redis(port=free_port(), socket_connect_timeout=0.2)
    gateway.services.alert_memory = AlertMemory(gone)
    gateway.services.ladder_orders = SharedNote(gone, "note", gateway.services.pipeline.ladders.obey)
    one = alert(action="restart", part="ingest")
    assert await results(gateway, one, one) == ["done", "repeated"]
    assert (await send(gateway, alert(action="shed", step="no_rerank"))).status_code == 503
    assert pinned(gateway) == []
    await gone.aclose()


@pytest.mark.parametrize(
    ("labels", "result", "words"),
    [
        ({}, "ignored", ""),
        ({"action": "explode"}, "refused", "shed, drain, restart"),
        ({"action": "shed"}, "refused", "There is no step ''"),
        ({"action": "shed", "step": "dance"}, "refused", "fewer_passages"),
    ],
    ids=["no-action", "unknown-action", "no-step", "unknown-step"],
)
async def test_alerts_that_ask_for_nothing_we_do(
    gateway: Gateway, labels: dict[str, str], result: str, words: str
) -> None:
    (row,) = (await send(gateway, alert(**labels))).json()["data"]
    assert row["result"] == result
    assert words in row["detail"]


async def test_the_last_of_its_kind_is_not_drained(gateway: Gateway, parts: Parts) -> None:
    parts.last = True
    (row,) = (await send(gateway, alert(action="drain", part="gateway"))).json()["data"]
    assert (row["result"], row["detail"]) == ("refused", "gateway-0 is the last of its kind.")


async def test_what_a_cluster_has_replaced_is_not_taken_back(gateway: Gateway, parts: Parts) -> None:
    parts.replaces = True
    one = alert(action="drain", part="triton", instance="10.0.0.1:8382")
    assert await results(gateway, one) == ["done"]
    assert await results(gateway, one | {"status": "resolved"}) == ["unchanged"]


async def test_a_cluster_evicts_the_pod_and_the_audit_line_names_it(
    gateway: Gateway, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "tidegate.audit")
    pods = [pod(f"triton-small-{name}", "triton-small", f"10.0.0.{name}") for name in (1, 2)]
    api = ClusterApi(tmp_path, pods, answers=[429])
    await api.start()
    gateway.services.part_orders = PodOrders(api.address, tmp_path)
    one = alert(action="drain", part="triton", instance="10.0.0.2:8382")
    assert (await send(gateway, one)).status_code == 503  # a disruption budget: Alertmanager comes again
    assert await results(gateway, one) == ["done"]
    await api.stop()
    assert [each["metadata"]["name"] for each in api.evicted] == ["triton-small-2"]
    lines = [record.getMessage() for record in caplog.records if record.name == "tidegate.audit"]
    assert "action=drain target=triton 10.0.0.2:8382 result=failed" in lines[0]
    assert "disruption budget" in lines[0]
    assert "action=drain target=triton 10.0.0.2:8382 result=done" in lines[1]
    assert "detail=triton-small-2" in lines[1]


async def test_in_a_cluster_processes_are_somebody_elses(gateway: Gateway) -> None:
    (row,) = (await send(gateway, alert(action="restart", part="gateway"))).json()["data"]
    assert row["result"] == "refused"
    assert "cluster" in row["detail"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"version": "3", "alerts": []}, "version", "Alertmanager's '4'"),
        ({"version": "4"}, None, "alerts"),
        ({"version": "4", "alerts": [{"status": "odd"}]}, "alerts[0].status", "odd"),
        ({"version": "4", "alerts": [alert() | {"labels": {"a": 1}}]}, "alerts[0].labels[...]", "int"),
        ([], None, "Expected `object`"),
    ],
    ids=["version", "no-alerts", "status", "label", "no-object"],
)
async def test_what_is_no_notification_is_refused_with_its_place(
    gateway: Gateway, body: Any, param: str | None, words: str
) -> None:
    reply = await gateway.client.post(PATH, json=body, headers=gateway.auth("operator"))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (400, param)
    assert words in error["message"]


async def test_only_an_admin_key_may_send(gateway: Gateway, parts: Parts) -> None:
    one = alert(action="restart", part="ingest")
    assert (await send(gateway, one, key="acme")).status_code == 403
    assert (await gateway.client.post(PATH, json={"version": "4", "alerts": [one]})).status_code == 403
    assert parts.orders == []


async def test_every_decision_leaves_an_audit_line_and_a_count(
    gateway: Gateway, parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "tidegate.audit")
    await send(
        gateway, alert(action="restart", part="ingest", fingerprint=""), alert(action="shed", step="dance")
    )
    lines = [record.getMessage() for record in caplog.records if record.name == "tidegate.audit"]
    assert "action=restart target=ingest result=done key=key_" in lines[0]
    assert "detail=There is no step 'dance'" in lines[1]
    text = gateway.services.metrics.render().decode()
    assert 'tidegate_alert_actions_total{action="restart",result="done"} 1.0' in text
