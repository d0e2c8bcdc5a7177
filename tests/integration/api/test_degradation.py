"""The ladder at both doors: what a client sees of it, and what an operator orders through /admin."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from gateway.admission.slots import BANDS
from gateway.storage import rights
from gateway.storage.shared_note import SharedNote
from gateway.tiering.ladder import STEPS
from gateway.tiering.ladders import Line
from gateway.tiering.pressure import Reading
from tests.fakes.engines import passage
from tests.integration.api.conftest import Gateway, free_port
from tests.integration.api.doors import Door, GrpcDoor, HttpDoor, Reply
from tests.integration.api.test_both_doors import ask_both

LADDER, TIERS = "/admin/ladder", "/admin/tiers"
COMPARE = [{"role": "user", "content": "Compare Envoy and Redis"}]
OPERATOR = "operator"
ROOT = Path(__file__).parents[3]
LIMIT_S = 30


@pytest_asyncio.fixture
async def doors(gateway: Gateway) -> AsyncIterator[list[Door]]:
    both: list[Door] = [HttpDoor(gateway), GrpcDoor(gateway)]
    yield both
    for each in both:
        await each.close()


async def order(gateway: Gateway, **orders: list[str]) -> httpx.Response:
    return await gateway.client.put(LADDER, json=orders, headers=gateway.auth(OPERATOR))


def press(gateway: Gateway, tier: str, band: str, eta_s: float) -> None:
    for tick in range(40):
        gateway.services.pipeline.ladders.observe({Line(tier, band): Reading(eta_s=eta_s)}, tick / 4)


def told(reply: Reply) -> dict[str, Any]:
    assert reply.receipt is not None
    return reply.receipt


async def test_what_was_given_up_is_told_alike(gateway: Gateway, doors: list[Door]) -> None:
    gateway.retriever.passages = [passage(number, f"Fact {number} is here.") for number in range(1, 15)]
    await order(gateway, pinned=["fewer_passages", "no_rerank", "smaller_tier", "shorter_answers"])
    receipt = told(await ask_both(doors, model="auto", messages=COMPARE))
    assert receipt["degraded"] == ["fewer_passages", "no_rerank", "smaller_tier", "shorter_answers"]
    assert receipt["tier"] == "fast"
    assert {(scope.k, scope.rerank) for scope in gateway.retriever.scopes} == {(3, False)}
    kept = await gateway.client.get(f"/v1/receipts/{receipt['id']}", headers=gateway.auth())
    assert kept.json()["degraded"] == receipt["degraded"]


async def test_the_reason_for_the_tier_is_told_alike(gateway: Gateway, doors: list[Door]) -> None:
    receipt = told(await ask_both(doors, model="auto", messages=COMPARE))
    assert receipt["tier"] == "deep"
    assert receipt["tier_reason"] == "auto: the question asks for more than one fact ('compare')"
    assert receipt["degraded"] == []


async def test_thin_evidence_goes_on_to_the_deep_tier_alike(gateway: Gateway, doors: list[Door]) -> None:
    gateway.retriever.passages = [passage(1, "The mill ground flour for the valley.", score=0.1)]
    reply = await ask_both(doors, model="auto", messages=[{"role": "user", "content": "Who conquered Peru?"}])
    assert told(reply)["tier"] == "deep"
    assert told(reply)["tier_reason"].endswith("; fast found too little, so deep looks again")
    assert gateway.fast.started == 0


async def test_the_last_step_refuses_alike_and_spares_who_waits_less(
    gateway: Gateway, doors: list[Door]
) -> None:
    press(gateway, "fast", "batch", 30.0)
    failure = (await ask_both(doors, priority="batch")).failure
    assert failure is not None
    assert (failure.status, failure.code, failure.retry_s) == (503, "overloaded", 1)
    assert gateway.retriever.started == 0
    assert told(await ask_both(doors, priority="interactive"))["degraded"] == []


async def test_a_tenant_with_a_floor_is_not_taken_below_it(gateway: Gateway, doors: list[Door]) -> None:
    with gateway.services.database.write() as conn:
        rights.set_rights(conn, "acme", tiers=["fast"], floor="no_rerank")
    gateway.services.auth.forget_all()
    await order(gateway, pinned=["no_rerank", "shorter_answers", "refuse"])
    assert told(await ask_both(doors))["degraded"] == ["no_rerank"]
    failure = (await ask_both(doors, model="deep")).failure
    assert failure is not None
    assert (failure.status, failure.code) == (404, "model_not_found")
    listed = await gateway.client.get("/v1/models", headers=gateway.auth())
    assert [row["id"] for row in listed.json()["data"]] == ["auto", "fast", "all-MiniLM-L6-v2"]
    assert (await gateway.client.get("/v1/models/deep", headers=gateway.auth())).status_code == 404


async def test_forbidden_steps_are_skipped_whatever_the_pressure(gateway: Gateway, doors: list[Door]) -> None:
    press(gateway, "fast", "interactive", 30.0)
    await order(gateway, forbidden=["refuse", "no_rerank", "fewer_passages"])
    assert told(await ask_both(doors))["degraded"] == ["shorter_answers"]


async def test_orders_and_levels_are_shown_and_replaced_as_a_whole(gateway: Gateway) -> None:
    press(gateway, "deep", "batch", 3.5)
    made = await order(gateway, pinned=["no_rerank"], forbidden=["refuse", "smaller_tier"])
    assert made.status_code == 200
    shown = (await gateway.client.get(LADDER, headers=gateway.auth(OPERATOR))).json()
    assert shown == made.json()
    assert shown["steps"] == list(STEPS)
    assert (shown["pinned"], shown["forbidden"]) == (["no_rerank"], ["smaller_tier", "refuse"])
    (line,) = [each for each in shown["lines"] if (each["tier"], each["band"]) == ("deep", "batch")]
    assert (line["pressure"], line["level"]) == (0.7, 2)
    assert line["in_force"] == ["fewer_passages", "no_rerank"]
    assert (await order(gateway)).json()["pinned"] == []


async def test_the_tiers_are_shown_with_their_queues(gateway: Gateway) -> None:
    permits = [await gateway.queue.acquire(band="batch", deadline=float("inf")) for _ in range(2)]
    rows = (await gateway.client.get(TIERS, headers=gateway.auth(OPERATOR))).json()["data"]
    for permit in permits:
        permit.release()
    assert [row["id"] for row in rows] == ["fast", "deep"]
    fast, deep = rows
    assert (fast["slots"], fast["inflight"], fast["waiting"]) == (2, 2, 0)
    assert (fast["is_auto"], fast["is_generative"]) == (True, False)
    assert set(fast["eta_s"]) == set(BANDS)
    assert fast["eta_s"]["batch"] > 0
    assert deep["eta_s"] == dict.fromkeys(BANDS, 0.0)
    assert deep["level"] == dict.fromkeys(BANDS, 0)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"pinned": ["dance"]}, "pinned[0]", "dance"),
        ({"pinned": ["refuse"], "forbidden": ["refuse"]}, "forbidden", "both pinned and forbidden"),
        ({"pins": []}, "", "pins"),
        ([], "", "Expected `object`"),
    ],
    ids=["unknown-step", "contradiction", "unknown-field", "no-object"],
)
async def test_orders_that_mean_nothing_are_refused(
    gateway: Gateway, body: Any, param: str, words: str
) -> None:
    reply = await gateway.client.put(LADDER, json=body, headers=gateway.auth(OPERATOR))
    error = reply.json()["error"]
    assert reply.status_code == 400
    assert (error["param"] or "") == param
    assert words in error["message"]
    assert gateway.services.pipeline.ladders.orders.pinned == []


async def test_orders_that_cannot_be_shared_are_refused_and_those_before_stay(gateway: Gateway) -> None:
    await order(gateway, pinned=["no_rerank"])
    gone: Any = Redis(port=free_port(), socket_connect_timeout=0.2)
    gateway.services.ladder_orders = SharedNote(gone, "note", gateway.services.pipeline.ladders.obey)
    refused = await order(gateway, pinned=["refuse"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "upstream_unavailable")
    assert "stays in force" in refused.json()["error"]["message"]
    shown = (await gateway.client.get(LADDER, headers=gateway.auth(OPERATOR))).json()
    assert shown["pinned"] == ["no_rerank"]
    await gone.aclose()


@pytest.mark.parametrize("path", [LADDER, TIERS])
async def test_only_an_admin_key_opens_it(gateway: Gateway, path: str) -> None:
    assert (await gateway.client.get(path, headers=gateway.auth())).status_code == 403
    assert (await gateway.client.get(path)).status_code == 403
    assert (await gateway.client.get(path, headers={"authorization": "Bearer nope"})).status_code == 401
    refused = await gateway.client.put(LADDER, json={"pinned": ["refuse"]}, headers=gateway.auth())
    assert refused.status_code == 403
    assert gateway.services.pipeline.ladders.orders.pinned == []


async def test_metrics_name_the_choice_and_what_was_given_up(gateway: Gateway) -> None:
    await order(gateway, pinned=["no_rerank"])
    await gateway.ask(model="auto")
    gateway.services.pressure.look()
    text = gateway.services.metrics.render().decode()
    assert 'tidegate_tier_choices_total{reason="simple",tier="fast"} 1.0' in text
    assert 'tidegate_degraded_total{step="no_rerank",tier="fast"} 1.0' in text
    assert 'tidegate_ladder_level{band="batch",tier="fast"} 0.0' in text


async def command(gateway: Gateway, *arguments: str, tenant: str = OPERATOR) -> tuple[int | None, str, str]:
    """`tidegate ladder` as a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "TG_"))}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "ladder", "--url", gateway.url, "--key", gateway.keys[tenant]),
        *arguments,
        env=kept | {"PYTHONPATH": str(ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), LIMIT_S)
    return process.returncode, out.decode(), err.decode()


async def test_the_command_shows_and_orders(gateway: Gateway) -> None:
    press(gateway, "deep", "batch", 3.5)
    code, out, _ = await command(
        gateway, "--pin", "smaller_tier", "--forbid", "refuse", "--forbid", "no_rerank"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == ["pinned: smaller_tier", "forbidden: no_rerank, refuse"]
    assert any(
        line.split() == ["deep", "batch", "0.70", "fewer_passages,", "smaller_tier"] for line in lines
    ), out
    assert gateway.services.pipeline.ladders.orders.pinned == ["smaller_tier"]
    _, out, _ = await command(gateway)
    assert out.startswith("pinned: smaller_tier\n")
    _, out, _ = await command(gateway, "--clear", "--json")
    assert (json.loads(out)["pinned"], json.loads(out)["forbidden"]) == ([], [])


@pytest.mark.parametrize(
    ("arguments", "tenant", "code", "words"),
    [
        (["--pin", "dance"], OPERATOR, 1, "dance"),
        (["--clear", "--pin", "refuse"], OPERATOR, 2, "give it alone"),
        ([], "acme", 1, "admin key"),
    ],
    ids=["unknown-step", "clear-and-pin", "no-admin"],
)
async def test_the_command_says_what_is_wrong(
    gateway: Gateway, arguments: list[str], tenant: str, code: int, words: str
) -> None:
    got, _, err = await command(gateway, *arguments, tenant=tenant)
    assert got == code
    assert words in err


async def test_a_tenants_rights_are_set_and_shown(gateway: Gateway) -> None:
    path, wanted = "/admin/tenants/acme", {"tiers": ["fast"], "floor": "none"}
    headers = gateway.auth(OPERATOR)
    assert (await gateway.ask(model="deep")).status_code == 200  # and the key is known from now on
    made = await gateway.client.put(path, json=wanted, headers=headers)
    assert made.json() == {"object": "tenant", "name": "acme", **wanted}
    assert (await gateway.client.get(path, headers=headers)).json() == made.json()
    assert (await gateway.ask(model="deep")).status_code == 404
    await order(gateway, pinned=["no_rerank"])
    assert (await gateway.ask()).json()["tidegate"]["receipt"]["degraded"] == []
    await gateway.client.put(path, json={}, headers=headers)
    assert (await gateway.ask(model="deep")).json()["tidegate"]["receipt"]["degraded"] == ["no_rerank"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        ("acme", {"tiers": ["fast", "huge"]}, 400, "invalid_value", "tiers[1]"),
        ("acme", {"floor": "dance"}, 400, "invalid_value", "floor"),
        ("acme", {"roof": ""}, 400, "invalid_value", None),
        ("nobody", {}, 404, "tenant_not_found", "tenant"),
        ("no%00body", {}, 404, "tenant_not_found", "tenant"),
    ],
    ids=["tier", "floor", "field", "unknown", "nul"],
)
async def test_rights_that_mean_nothing_are_refused(
    gateway: Gateway, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    headers = gateway.auth(OPERATOR)
    reply = await gateway.client.put(f"/admin/tenants/{path}", json=body, headers=headers)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)


async def test_rights_are_for_admins(gateway: Gateway) -> None:
    for path in ("/admin/tenants/acme", "/admin/tenants/nobody"):
        assert (await gateway.client.get(path, headers=gateway.auth())).status_code == 403
        assert (await gateway.client.put(path, json={}, headers=gateway.auth())).status_code == 403
