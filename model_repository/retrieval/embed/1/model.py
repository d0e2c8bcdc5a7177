"""`embed` on Triton: text BYTES [n, 1], role BYTES [n, 1] optional -> embedding FP32 [n, 384], 1 <= n <= 32.

Thin: tensors to strings and back. All requests of a batch are tokenised, padded and run as one;
a bad request gets its own error and does not touch the others.
"""

from __future__ import annotations

import triton_python_backend_utils as pb_utils

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.settings import load_settings

ROLES = {b"query", b"passage"}
WARM_ROWS = (1, 2, 4, 8, 16, 32)
WARM_LENGTHS = (8, 12, 16, 24)


class TritonPythonModel:
    def initialize(self, args):
        settings = load_settings()
        folder = prepare_embedder(settings.models_dir, pb_utils.Logger.log_info)
        self._embedder = SentenceEmbedder(
            folder, precision=settings.embed_precision, threads=settings.embed_threads
        )
        self._embedder.warm_up(WARM_ROWS, WARM_LENGTHS)
        self._embedder.embed(["warm the tokenizer"])
        pb_utils.Logger.log_info(
            f"embed: {self._embedder.engine}, {self._embedder.device}, {self._embedder.precision}"
        )

    def execute(self, requests):
        texts, responses, spans = [], [None] * len(requests), []
        for position, request in enumerate(requests):
            try:
                read = _texts(request)
            except ValueError as error:
                responses[position] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
            else:
                spans.append((position, len(texts), len(texts) + len(read)))
                texts += read
        if not texts:
            return responses
        vectors = self._embedder.embed(texts)
        for position, start, end in spans:
            output = pb_utils.Tensor("embedding", vectors[start:end])
            responses[position] = pb_utils.InferenceResponse([output])
        return responses


def _texts(request) -> list[str]:
    """The request's texts. Raises: ValueError with the public reason."""
    role = pb_utils.get_input_tensor_by_name(request, "role")
    if role is not None and not ROLES.issuperset(role.as_numpy().ravel()):
        raise ValueError("role: expected `query` or `passage`.")
    rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
    try:
        return [value.decode() for value in rows.ravel()]
    except UnicodeDecodeError as error:
        raise ValueError(f"text: not UTF-8 (byte {error.start}).") from None


def _failure(message: str, code) -> pb_utils.InferenceResponse:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
