"""The little of a cluster's API that evictions need, over TLS with an authority of its own: pods, and their evictions.

`answers` are statuses to give to the next evictions in place of 201. What was evicted is on `evicted`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.certificates import Pair, make_pair

NAMESPACE = "tidegate"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def pod(
    name: str, part: str, ip: str, *, owner: str = "", is_ready: bool = True, is_leaving: bool = False
) -> dict[str, Any]:
    """As the API tells it, without all that nobody here reads."""
    metadata: dict[str, Any] = {
        "name": name,
        "uid": f"uid-{name}",
        "labels": {"app.kubernetes.io/name": part, "pod-template-hash": "x"},
        "ownerReferences": [{"kind": "ReplicaSet", "name": owner or part, "uid": f"uid-{owner or part}"}],
    }
    if is_leaving:
        metadata["deletionTimestamp"] = "2026-01-02T03:04:05Z"
    conditions = [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": str(is_ready)}]
    return {"metadata": metadata, "status": {"podIP": ip, "phase": "Running", "conditions": conditions}}


def authority(folder: Path) -> Pair:
    """ca.crt, as a pod has it, and beside it the server's key."""
    return make_pair(folder, "IP:127.0.0.1", certificate="ca.crt", key="server.key")


@dataclass
class ClusterApi:
    folder: Path
    pods: list[dict[str, Any]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    list_status: int = 200
    list_body: bytes | None = None
    token: str = "token-1"
    evicted: list[dict[str, Any]] = field(default_factory=list)
    address: str = ""
    _server: asyncio.Server | None = None

    async def start(self) -> None:
        """The folder is then what a pod has of it."""
        context = authority(self.folder).for_server()
        (self.folder / "namespace").write_text(NAMESPACE)
        (self.folder / "token").write_text(self.token + "\n")
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.address = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = head[0].split()
                status, answer = self._answer(method, path, headers, body)
                writer.write(
                    f"HTTP/1.1 {status} .\r\ncontent-length: {len(answer)}\r\n\r\n".encode() + answer
                )
                await writer.drain()
        writer.close()

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if headers.get("authorization") != f"bearer {self.token}":
            return 401, b"{}"
        if method == "GET" and path == f"{PODS}?labelSelector=app.kubernetes.io/name":
            whole = json.dumps({"kind": "PodList", "apiVersion": "v1", "items": self.pods}).encode()
            return self.list_status, whole if self.list_body is None else self.list_body
        name = path.removeprefix(f"{PODS}/").removesuffix("/eviction")
        if method == "POST" and any(each["metadata"]["name"] == name for each in self.pods):
            status = self.answers.pop(0) if self.answers else 201
            if status == 201:
                self.evicted.append(json.loads(body))
            return status, b"{}"
        return 404, b"{}"
