"""What we ask of the running Envoy at its admin port: open work, the drain, its log. http.client heeds no proxy."""

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
        self._port = settings.envoy_admin_port
        self._access_log = settings.log_dir / "envoy-access.log"

    def drain(self) -> None:
        """Close the public listener and tell open connections to end. Raises: EdgeSilent."""
        self._call("POST", "/healthcheck/fail")
        self._call("POST", "/drain_listeners?inboundonly")

    def num_open_requests(self) -> int:
        """Requests on the public listener that have not been answered in full. Raises: EdgeSilent."""
        text = self._call("GET", "/stats?filter=^http%5C.edge%5C.downstream_rq_active$")
        return _number(text.rpartition(":")[2])

    def num_open_calls(self, grpc_port: int) -> int:
        """Calls that the inner balancer has under way on the replica of that port. Raises: EdgeSilent."""
        found = 0
        for line in self._call("GET", "/clusters").splitlines():
            # triton::127.0.0.1:8380::rq_active::0
            address, _, value = line.rpartition("::rq_active::")
            if address.startswith("triton::") and address.endswith(f":{grpc_port}"):
                found += _number(value)
        return found

    def rotate_access_log(self) -> None:
        """Envoy appends for ever by itself: keep one older file."""
        with contextlib.suppress(OSError, EdgeSilent):
            if self._access_log.stat().st_size > ACCESS_LOG_BYTES:
                self._access_log.replace(self._access_log.with_suffix(".log.1"))
                self._call("POST", "/reopen_logs")

    def _call(self, method: str, path: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
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
