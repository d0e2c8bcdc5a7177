"""What we ask of the running Envoys at their admin ports: open work, the drain, their logs. http.client heeds no
proxy."""

from __future__ import annotations

import contextlib
import http.client

from gateway.settings import Settings

ACCESS_LOG_BYTES = 64 * 2**20
TIMEOUT_S = 2.0


class EdgeSilent(RuntimeError):
    """Envoy does not answer, or says no."""


class Edge:
    def __init__(self, settings: Settings) -> None:
        processes = range(settings.edge_processes)
        self._ports = [settings.edge_admin_port(index) for index in processes]
        self._access_logs = [settings.edge_access_log(index) for index in processes]

    def drain(self) -> None:
        """Close the public listener and tell open connections to end. Raises: EdgeSilent when no process heard it."""
        for path in ("/healthcheck/fail", "/drain_listeners?inboundonly"):
            self._each("POST", path)

    def num_open_requests(self) -> int:
        """Requests on the public listener that have not been answered in full. Raises: EdgeSilent."""
        texts = self._each("GET", "/stats?filter=^http%5C.edge%5C.downstream_rq_active$")
        return sum(_number(text.rpartition(":")[2]) for text in texts)

    def num_open_calls(self, grpc_port: int) -> int:
        """Calls that the inner balancer has under way on the replica of that port. Raises: EdgeSilent."""
        found = 0
        for line in self._call(self._ports[0], "GET", "/clusters").splitlines():
            # triton::127.0.0.1:8380::rq_active::0
            address, _, value = line.rpartition("::rq_active::")
            if address.startswith("triton::") and address.endswith(f":{grpc_port}"):
                found += _number(value)
        return found

    def rotate_access_log(self) -> None:
        """Envoy appends for ever by itself: keep one older file."""
        for port, log in zip(self._ports, self._access_logs, strict=True):
            with contextlib.suppress(OSError, EdgeSilent):
                if log.stat().st_size > ACCESS_LOG_BYTES:
                    log.replace(log.with_suffix(".log.1"))
                    self._call(port, "POST", "/reopen_logs")

    def _each(self, method: str, path: str) -> list[str]:
        """What those that answer say: one that has just died must not keep the others from their drain."""
        texts, silence = [], EdgeSilent("no process")
        for port in self._ports:
            try:
                texts.append(self._call(port, method, path))
            except EdgeSilent as error:
                silence = error
        if not texts:
            raise silence
        return texts

    def _call(self, port: int, method: str, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            body = answer.read().decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise EdgeSilent(str(error)) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise EdgeSilent(f"{path}: {answer.status}")
        return body


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise EdgeSilent(f"not a number: {text[:40]!r}") from None
