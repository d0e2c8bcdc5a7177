"""Triton model `rerank`: the passages that a question gets, of the candidates that a search found.

Shapes: text BYTES[1], candidates BYTES[1] (JSON list of types.Passage, best first), scope BYTES[1] (JSON of
types.Scope) -> passages BYTES[1] (JSON list of types.Passage, best first, at most scope.k, neighbours merged).
A bad request gets an error of its own; its batch goes on.

Thin: the order is decided in gateway.retrieval.rerank.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.retrieval.rerank import rerank_row

INPUTS = ("text", "candidates", "scope")


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [_answer(request) for request in requests]


def _answer(request: Any) -> Any:
    rows = [pb_utils.get_input_tensor_by_name(request, name).as_numpy()[:, 0] for name in INPUTS]
    passages = np.empty((len(rows[0]), 1), object)
    for number, row in enumerate(zip(*rows, strict=True)):
        try:
            passages[number, 0] = rerank_row(*row)
        except ValueError as error:
            message = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(error=message)
        except Exception as error:  # noqa: BLE001 - the edge of the process: one request must not end the others
            pb_utils.Logger.log_error(f"rerank: {type(error).__name__}: {error}")
            message = pb_utils.TritonError("rerank failed on this request.", pb_utils.TritonError.INTERNAL)
            return pb_utils.InferenceResponse(error=message)
    return pb_utils.InferenceResponse([pb_utils.Tensor("passages", passages)])
