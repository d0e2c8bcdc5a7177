"""Triton's KServe v2 gRPC protocol, over raw stubs.

Owns the wire: building requests from tensors.py, reading raw outputs, cancelling, mapping every gRPC status to one
of our errors, and one retry on another replica. Refuses to know what any model means.

`client.py` calls, `coding.py` turns tensors into bytes and back, `errors.py` says what a failure is.
"""

from gateway.triton.client import MODEL_HEADER, PIN_HEADER, TritonClient
from gateway.triton.coding import (
    Outputs,
    Value,
    fill,
    make_plan,
    read_outputs,
    read_raw,
    unpack_bytes,
)

__all__ = [
    "MODEL_HEADER",
    "PIN_HEADER",
    "Outputs",
    "TritonClient",
    "Value",
    "fill",
    "make_plan",
    "read_outputs",
    "read_raw",
    "unpack_bytes",
]
