"""How the error of a decoupled model travels in a stream's message, and what the client makes of Triton's own words."""

from __future__ import annotations

import pytest

from gateway.errors import UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from gateway.tensors import split_stream_error, stream_error
from gateway.triton.errors import map_message


def test_what_a_model_says_comes_back() -> None:
    assert split_stream_error(stream_error("UNAVAILABLE", "engine_full: all 2 slots: taken")) == (
        "UNAVAILABLE",
        "engine_full: all 2 slots: taken",
    )


@pytest.mark.parametrize(
    "said", ["", "no mark", "in ensemble 'x': failed", "model: broke", "A B: no", ": empty"]
)
def test_words_without_a_status_are_internal_and_kept_whole(said: str) -> None:
    assert split_stream_error(said) == ("INTERNAL", said)


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        ("UNAVAILABLE: going away", UpstreamUnavailable, "upstream_unavailable"),
        ("INVALID_ARGUMENT: top_p", UpstreamProtocolError, "upstream_protocol_error"),
        ("INTERNAL: it broke", UpstreamError, "upstream_error"),
        ("NOSUCHCODE: it broke", UpstreamError, "upstream_error"),
        ("Stub process 'reader_0_0' is not healthy.", UpstreamUnavailable, "replica_dead"),
        ("Request for unknown model: 'reader' is not found", UpstreamUnavailable, "model_not_ready"),
    ],
)
def test_each_message_has_its_error(message: str, kind: type[UpstreamError], code: str) -> None:
    error = map_message(message, "reader")
    assert (type(error), error.code) == (kind, code)
    assert error.detail.startswith("reader: ")
