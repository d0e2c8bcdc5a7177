"""`embed` on Triton: text BYTES [n, 1], role and embedder BYTES [n, 1] optional -> embedding FP32 [n, D], 1 <= n <= 32.

Thin: tensors to strings and back. All requests of a batch that ask the same embedder are tokenised, padded and run as
one; the rows of one request must agree on embedder and role. A bad request gets its own error and does not touch the
others.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

from gateway.embedding.embedders import Embedders, Wish
from gateway.settings import load_settings


class TritonPythonModel:
    def initialize(self, args):
        self._embedders = Embedders(load_settings(), pb_utils.Logger.log_info)

    def execute(self, requests):
        responses, wishes = [None] * len(requests), {}
        for position, request in enumerate(requests):
            try:
                wish = _wish(request)
                self._embedders.check(wish)
            except ValueError as error:
                responses[position] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
            else:
                wishes[position] = wish
        found = self._embedders.embed(list(wishes.values()))
        for position, vectors in zip(wishes, found, strict=True):
            output = pb_utils.Tensor("embedding", vectors)
            responses[position] = pb_utils.InferenceResponse([output])
        return responses


def _wish(request) -> Wish:
    """Raises: ValueError with the public reason."""
    texts = _strings(request, "text")
    said = {}
    for name in ("role", "embedder"):
        values = set(_strings(request, name))
        if len(values) > 1:
            raise ValueError(f"{name}: the rows of one request must agree.")
        if any(values):
            said[name] = values.pop()
    return Wish(texts, **said)


def _strings(request, name: str) -> list[str]:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return []
    try:
        return [value.decode() for value in tensor.as_numpy().ravel()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not UTF-8 (byte {error.start}).") from None


def _failure(message: str, code) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
