"""Every error of the tree has one gRPC status, and its code, field and delay travel with it."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import error_details_pb2

from gateway import errors
from gateway.api.grpc_door import peer_address
from gateway.api.grpc_errors import field_name, status_code, to_status


def tree(kind: type[errors.TidegateError]) -> list[type[errors.TidegateError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in tree(child))]


# The pairs that google.rpc.Code documents, and our own limits and deadlines.
ALLOWED = {
    400: {"INVALID_ARGUMENT"},
    401: {"UNAUTHENTICATED"},
    403: {"PERMISSION_DENIED"},
    404: {"NOT_FOUND"},
    405: {"UNIMPLEMENTED"},
    408: {"DEADLINE_EXCEEDED"},
    409: {"ABORTED"},
    413: {"RESOURCE_EXHAUSTED"},
    415: {"INVALID_ARGUMENT"},
    422: {"INVALID_ARGUMENT"},
    429: {"RESOURCE_EXHAUSTED"},
    499: {"CANCELLED"},
    500: {"INTERNAL"},
    502: {"INTERNAL"},
    503: {"UNAVAILABLE"},
    504: {"DEADLINE_EXCEEDED"},
}
NUMBERS = {code.value[0]: code.name for code in grpc.StatusCode}


@pytest.mark.parametrize("kind", tree(errors.TidegateError), ids=lambda kind: kind.__name__)
def test_every_error_has_the_grpc_status_of_its_http_status(kind: type[errors.TidegateError]) -> None:
    assert NUMBERS[status_code(kind)] in ALLOWED[kind.status]


@pytest.mark.parametrize("kind", tree(errors.TidegateError), ids=lambda kind: kind.__name__)
def test_every_error_carries_its_code_and_its_delay(kind: type[errors.TidegateError]) -> None:
    status = to_status(kind("What is wrong.", param="messages", detail="secret"))
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert (status.message, info.reason, info.domain) == ("What is wrong.", kind.code, "tidegate")
    assert dict(info.metadata) == {"param": "messages"}
    assert (len(status.details) > 1 and status.details[1].Unpack(retry)) == (kind.status in {429, 503})
    assert b"secret" not in status.SerializeToString()


def test_a_measured_delay_is_told_exactly() -> None:
    retry = error_details_pb2.RetryInfo()
    to_status(errors.Rejected("Full.", retry_after_s=2.25)).details[1].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() == 2.25


@pytest.mark.parametrize(
    ("param", "name"),
    [
        (None, None),
        ("messages[3].content", "messages[3].content"),
        ("tidegate.top_k", "top_k"),
        ("tidegate.collections[2]", "collections[2]"),
        ("tidegate.deadline_ms", "deadline"),
    ],
)
def test_a_field_is_named_as_the_message_has_it(param: str | None, name: str | None) -> None:
    assert field_name(param) == name


def test_the_sentence_names_the_field_too() -> None:
    error = errors.InvalidRequest("Expected `int` >= 1 (at tidegate.top_k).", param="tidegate.top_k")
    assert to_status(error).message == "Expected `int` >= 1 (at top_k)."


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[2001:db8::7]:4711", "2001:db8::7"),
        ("unix:", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_peer_is_found(peer: str, address: str) -> None:
    assert peer_address(peer) == address
