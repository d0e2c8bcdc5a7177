"""Restarts and drains in a cluster: what is asked of its API, over TLS, and what is refused before or by it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import jsonschema
import pytest
import pytest_asyncio

from gateway.api.alert_memory import Refused
from gateway.errors import UpstreamUnavailable
from gateway.supervise.pod_orders import PodOrders, pod_orders
from tests.config.k8s.test_schemas import definitions, standard_folder
from tests.fakes.cluster_api import ClusterApi, authority, pod

TWO = [pod("small-a", "triton-small", "10.0.0.1"), pod("small-b", "triton-small", "10.0.0.2")]
BUDGET, AWAY = "disruption budget", "The cluster's API did not do it"


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[ClusterApi]:
    made = ClusterApi(tmp_path, list(TWO))
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def orders(api: ClusterApi) -> PodOrders:
    return PodOrders(api.address, api.folder)


def evicted(api: ClusterApi) -> list[str]:
    return [each["metadata"]["name"] for each in api.evicted]


@pytest.mark.parametrize("order", ["restart", "drain"])
async def test_the_pod_behind_the_address_is_evicted(api: ClusterApi, orders: PodOrders, order: str) -> None:
    assert await getattr(orders, order)("triton", "10.0.0.2:8382") == "small-b"
    assert evicted(api) == ["small-b"]
    assert api.evicted[0]["deleteOptions"] == {"preconditions": {"uid": "uid-small-b"}}


async def test_an_eviction_fits_the_clusters_schema(api: ClusterApi, orders: PodOrders) -> None:
    await orders.restart("triton", "10.0.0.1:8382")
    folder = standard_folder("1.34")
    schema = json.loads((folder / "eviction-policy-v1.json").read_text())
    jsonschema.Draft202012Validator(schema, registry=definitions(folder)).validate(api.evicted[0])


async def test_a_part_that_is_one_pod_needs_no_address(api: ClusterApi, orders: PodOrders) -> None:
    api.pods.append(pod("ingest-a", "ingest", "10.0.0.9"))
    assert await orders.restart("ingest", "") == "ingest-a"


async def test_a_drain_is_over_when_the_pod_is_replaced(api: ClusterApi, orders: PodOrders) -> None:
    assert await orders.resume("triton", "10.0.0.2:8382") == ""
    assert api.evicted == []


async def test_a_renewed_token_is_taken_at_once(api: ClusterApi, orders: PodOrders) -> None:
    await orders.restart("triton", "10.0.0.1:8382")
    api.token = "token-2"
    (api.folder / "token").write_text("token-2")
    await orders.restart("triton", "10.0.0.2:8382")
    assert evicted(api) == ["small-a", "small-b"]


@pytest.mark.parametrize(
    ("part", "instance", "said"),
    [
        ("redis", "10.0.0.1:1", "There is no part 'redis'; there are: gateway, triton, ingest."),
        ("gateway", "10.0.0.1:8090", "'10.0.0.1:8090' is no instance of gateway here."),
        ("triton", "10.0.0.7:8382", "'10.0.0.7:8382' is no instance of triton here."),
        ("triton", "", "'' is no instance of triton here."),
    ],
    ids=["no-part", "another-part", "nobody", "one-of-two"],
)
async def test_what_names_no_pod_is_refused(
    api: ClusterApi, orders: PodOrders, part: str, instance: str, said: str
) -> None:
    with pytest.raises(Refused) as refused:
        await orders.restart(part, instance)
    assert str(refused.value) == said
    assert api.evicted == []


@pytest.mark.parametrize(
    "other",
    [
        pod("small-b", "triton-small", "10.0.0.2", is_ready=False),
        pod("small-b", "triton-small", "10.0.0.2", is_leaving=True),
    ],
    ids=["not-ready", "leaving"],
)
async def test_two_are_never_away_at_once(
    api: ClusterApi, orders: PodOrders, other: dict[str, object]
) -> None:
    api.pods[1] = other
    with pytest.raises(Refused, match="small-b is away too"):
        await orders.restart("triton", "10.0.0.1:8382")
    with pytest.raises(Refused, match="small-a is the last of its kind"):
        await orders.drain("triton", "10.0.0.1:8382")
    assert api.evicted == []


async def test_one_of_another_version_is_not_of_its_kind(api: ClusterApi, orders: PodOrders) -> None:
    """The next version may stand there and serve nobody."""
    api.pods[1] = pod("small-b", "triton-small", "10.0.0.2", owner="triton-small-v2")
    with pytest.raises(Refused, match="last of its kind"):
        await orders.drain("triton", "10.0.0.1:8382")


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [
        (403, Refused, "apply the component `evictions`"),
        (404, Refused, "gone already"),
        (409, Refused, "gone already"),
        (429, UpstreamUnavailable, BUDGET),
        (500, UpstreamUnavailable, AWAY),
    ],
    ids=str,
)
async def test_what_the_api_answers_decides_whether_it_is_tried_again(
    api: ClusterApi, orders: PodOrders, status: int, error: type[Exception], said: str
) -> None:
    api.answers = [status]
    with pytest.raises(error, match=said):
        await orders.restart("triton", "10.0.0.1:8382")
    assert api.evicted == []
    assert await orders.restart("triton", "10.0.0.1:8382") == "small-a"


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(403, b"{}", Refused), (503, b"{}", UpstreamUnavailable), (200, b"<html>", UpstreamUnavailable)],
    ids=["forbidden", "away", "no-list"],
)
async def test_without_a_list_of_pods_nothing_is_done(
    api: ClusterApi, orders: PodOrders, status: int, body: bytes, error: type[Exception]
) -> None:
    api.list_status, api.list_body = status, body
    with pytest.raises(error):
        await orders.drain("triton", "10.0.0.1:8382")
    assert api.evicted == []


async def test_an_api_that_another_authority_signed_for_gets_no_token(
    api: ClusterApi, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    authority(folder)
    for name in ("namespace", "token"):
        (folder / name).write_text((api.folder / name).read_text())
    with pytest.raises(UpstreamUnavailable) as failed:
        await PodOrders(api.address, folder).restart("triton", "10.0.0.1:8382")
    assert "CERTIFICATE_VERIFY_FAILED" in failed.value.detail


async def test_a_cluster_that_is_out_of_reach_is_told_so(orders: PodOrders, api: ClusterApi) -> None:
    await api.stop()
    with pytest.raises(UpstreamUnavailable, match=AWAY):
        await orders.restart("triton", "10.0.0.1:8382")


async def test_only_a_pod_with_a_token_may_order(api: ClusterApi, tmp_path: Path) -> None:
    inside = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert pod_orders({}, api.folder) is None
    assert pod_orders(inside, tmp_path / "nothing") is None
    assert isinstance(pod_orders(inside, api.folder), PodOrders)
    assert isinstance(pod_orders({"KUBERNETES_SERVICE_HOST": "fd00::1"}, api.folder), PodOrders)
