"""Restarts and drains in a cluster, as the alert receiver orders them: a pod is evicted, its controller replaces it.

An eviction is what a node's drain does: disruption budgets hold, the pod gets its signal and its whole grace period, so
open work finishes. Only where the component `evictions` has given the worker a token with that one right.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import httpx
import msgspec

from gateway.api.alert_memory import Refused
from gateway.errors import UpstreamUnavailable
from gateway.supervise.part_orders import PARTS

TOKEN_FOLDER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
NAME_LABEL = "app.kubernetes.io/name"
CALL_S = 5.0
AWAY = "The cluster's API did not do it."


class _Owner(msgspec.Struct):
    uid: str = ""


class _About(msgspec.Struct, rename="camel"):
    name: str
    uid: str
    labels: dict[str, str] = {}
    owner_references: list[_Owner] = []
    deletion_timestamp: str = ""


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct, rename="camel"):
    pod_ip: str = msgspec.field(default="", name="podIP")
    conditions: list[_Condition] = []


class Pod(msgspec.Struct):
    metadata: _About
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def part(self) -> str:
        """gateway, triton, ingest, or whatever else it is."""
        name = self.metadata.labels.get(NAME_LABEL, "")
        return "triton" if name.startswith("triton-") else name

    @property
    def is_ready(self) -> bool:
        ready = any(each.type == "Ready" and each.status == "True" for each in self.status.conditions)
        return ready and not self.metadata.deletion_timestamp

    def is_beside(self, other: Pod) -> bool:
        """Whether both are of one ReplicaSet: of one kind at one version."""
        mine, theirs = self.metadata.owner_references, other.metadata.owner_references
        return (
            self is not other and bool(mine) and [each.uid for each in mine] == [each.uid for each in theirs]
        )


class _Pods(msgspec.Struct):
    items: list[Pod]


_decode = msgspec.json.Decoder(_Pods).decode


class PodOrders:
    """Implements gateway.api.alert_memory.PartOrders. api: the cluster's address. folder: with the pod's own token,
    which is renewed while we run, the namespace, and the authority that signs for the API."""

    def __init__(self, api: str, folder: Path = TOKEN_FOLDER) -> None:
        self._folder = folder
        self._pods = f"{api}/api/v1/namespaces/{quote((folder / 'namespace').read_text().strip())}/pods"
        self._trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))

    async def restart(self, part: str, instance: str) -> str:
        async with self._client() as client:
            pods = await self._list(client)
            pod = _find(pods, part, instance)
            away = [each for each in pods if each.is_beside(pod) and not each.is_ready]
            if away:
                raise Refused(f"{away[0].metadata.name} is away too: not both at once.")
            return await self._evict(client, pod)

    async def drain(self, part: str, instance: str) -> str:
        """As a restart, where another one serves meanwhile: what takes its place is a new pod."""
        async with self._client() as client:
            pods = await self._list(client)
            pod = _find(pods, part, instance)
            if not any(each.is_beside(pod) and each.is_ready for each in pods):
                raise Refused(f"{pod.metadata.name} is the last of its kind.")
            return await self._evict(client, pod)

    async def resume(self, part: str, instance: str) -> str:
        """Nothing: the controller has replaced the pod long ago."""
        return ""

    def _client(self) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {(self._folder / 'token').read_text().strip()}"}
        return httpx.AsyncClient(headers=headers, verify=self._trust, timeout=CALL_S, trust_env=False)

    async def _list(self, client: httpx.AsyncClient) -> list[Pod]:
        answer = await self._call(client, "GET", f"{self._pods}?labelSelector={quote(NAME_LABEL)}")
        try:
            return _decode(answer.content).items
        except msgspec.DecodeError as error:
            raise UpstreamUnavailable(AWAY, detail=f"pods: {error}") from error

    async def _evict(self, client: httpx.AsyncClient, pod: Pod) -> str:
        name = pod.metadata.name
        order = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": name},
            "deleteOptions": {
                "preconditions": {"uid": pod.metadata.uid}
            },  # this pod, and no later one of its name
        }
        await self._call(client, "POST", f"{self._pods}/{quote(name)}/eviction", msgspec.json.encode(order))
        return name

    async def _call(
        self, client: httpx.AsyncClient, method: str, url: str, body: bytes | None = None
    ) -> httpx.Response:
        """Raises: Refused where trying again is no use, else UpstreamUnavailable."""
        try:
            answer = await client.request(
                method, url, content=body, headers={"content-type": "application/json"} if body else None
            )
        except httpx.HTTPError as error:
            raise UpstreamUnavailable(AWAY, detail=repr(error)) from error
        match answer.status_code:
            case 200 | 201:
                return answer
            case 401 | 403:
                raise Refused(
                    "The cluster does not let the gateway do that: apply the component `evictions`."
                )
            case 404 | 409:
                raise Refused("The pod is gone already.")
            case 429:
                raise UpstreamUnavailable("The pod's disruption budget does not allow it now.")
            case status:
                raise UpstreamUnavailable(AWAY, detail=f"{method} {status}: {answer.text[:200]}")


def _find(pods: list[Pod], part: str, instance: str) -> Pod:
    """By the address that Prometheus knows it by. Raises: Refused."""
    if part not in PARTS:
        raise Refused(f"There is no part {part[:50]!r}; there are: {', '.join(PARTS)}.")
    of_part = [pod for pod in pods if pod.part == part]
    address = instance.rpartition(":")[0]
    found = [pod for pod in of_part if pod.status.pod_ip == address] if address else of_part
    if len(found) != 1:
        raise Refused(f"{instance[:100]!r} is no instance of {part} here.")
    return found[0]


def pod_orders(environ: Mapping[str, str], folder: Path = TOKEN_FOLDER) -> PodOrders | None:
    """None outside of a cluster, and for a pod without a token."""
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not (folder / "token").is_file():
        return None
    return PodOrders(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", folder)
