"""Foreign errors become ours; what goes over the wire is held by the contract and integration suites."""

from __future__ import annotations

import grpc
import pymilvus.exceptions
import pytest
from pymilvus import MilvusException

from gateway.errors import UpstreamError, UpstreamTimeout, UpstreamUnavailable
from gateway.retrieval.milvus_client import Milvus, RowsRefused, TableMissing, TableNotLoaded, map_error


class Failed(grpc.RpcError):
    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__("secret of the server")
        self._status = status

    def code(self) -> grpc.StatusCode:
        return self._status


@pytest.mark.parametrize("status", list(grpc.StatusCode), ids=lambda status: status.name)
@pytest.mark.parametrize("is_wrapped", [False, True], ids=["raw", "wrapped"])
def test_every_grpc_status_has_an_error_of_ours(status: grpc.StatusCode, is_wrapped: bool) -> None:
    error = map_error(MilvusException(status, "secret of the server") if is_wrapped else Failed(status))
    assert error.code.startswith("vector_store_")
    assert "secret" in error.detail
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Failed(grpc.StatusCode.UNAVAILABLE), UpstreamUnavailable),
        (Failed(grpc.StatusCode.DEADLINE_EXCEEDED), UpstreamTimeout),
        (grpc.FutureTimeoutError(), UpstreamTimeout),
        (MilvusException(2, "Fail connecting to server"), UpstreamUnavailable),
        (MilvusException(8, "rate limit"), UpstreamUnavailable),
        (MilvusException(100, "collection not found"), TableMissing),
        (MilvusException(101, "collection not loaded"), TableNotLoaded),
        (MilvusException(1, "Cannot invoke RPC on closed channel!"), UpstreamUnavailable),
        (MilvusException(1, "Retry timeout: 1s, StatusCode.DEADLINE_EXCEEDED"), UpstreamTimeout),
        (MilvusException(1100, "invalid parameter"), RowsRefused),
        (pymilvus.exceptions.ParamError(message="too long"), RowsRefused),
        (MilvusException(7, "no", is_input_error=True), RowsRefused),
        (MilvusException(1800, "no such user"), UpstreamError),
        (MilvusException(5, "internal"), UpstreamError),
        (Failed(grpc.StatusCode.UNAUTHENTICATED), UpstreamError),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)[:40]),
)
def test_an_error_maps_to_the_most_specific_of_ours(error: Exception, kind: type[UpstreamError]) -> None:
    assert type(map_error(error)) is kind


def test_no_error_of_pymilvus_is_left_out() -> None:
    kinds = [
        each
        for each in vars(pymilvus.exceptions).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert len(kinds) > 10
    assert all(issubclass(each, MilvusException) for each in kinds)


def test_making_a_client_connects_to_nothing() -> None:
    Milvus("http://127.0.0.1:1", "", timeout_s=1).close()


def test_a_server_that_is_not_there_is_said_at_the_first_call() -> None:
    milvus = Milvus("http://127.0.0.1:1/somewhere", "secret:token", timeout_s=1)
    with pytest.raises(UpstreamUnavailable) as refused:
        milvus.version()
    assert "secret:token" not in refused.value.detail
