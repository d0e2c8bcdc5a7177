"""Every gRPC status becomes the most specific error of ours, and the server's words stay out of it."""

from __future__ import annotations

import grpc
import pytest

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamTimeout, UpstreamUnavailable
from gateway.triton.errors import STATUS_ERRORS, map_status


@pytest.mark.parametrize("code", list(grpc.StatusCode), ids=lambda code: code.name)
def test_every_grpc_status_has_an_error_of_ours(code: grpc.StatusCode) -> None:
    error = map_status(code, "secret of the server", "embed")
    assert code in STATUS_ERRORS
    assert isinstance(error, UpstreamError)
    assert "secret" in error.detail
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("code", "details", "kind", "word"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", UpstreamUnavailable, "upstream_unavailable"),
        (
            grpc.StatusCode.UNAVAILABLE,
            "vector_store_timeout: x",
            UpstreamUnavailable,
            "vector_store_unavailable",
        ),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", UpstreamTimeout, "upstream_timeout"),
        (grpc.StatusCode.INVALID_ARGUMENT, "", UpstreamProtocolError, "upstream_protocol_error"),
        (grpc.StatusCode.INTERNAL, "boom", UpstreamError, "upstream_error"),
        (
            grpc.StatusCode.INTERNAL,
            "Received RST_STREAM with error code 2",
            UpstreamUnavailable,
            "upstream_unavailable",
        ),
        (
            grpc.StatusCode.INTERNAL,
            "Stub process 'embed_0_0' is not healthy.",
            UpstreamUnavailable,
            "replica_dead",
        ),
    ],
)
def test_status_maps_to_the_most_specific_error(
    code: grpc.StatusCode, details: str, kind: type[UpstreamError], word: str
) -> None:
    error = map_status(code, details, "embed")
    assert type(error) is kind
    assert error.code == word
