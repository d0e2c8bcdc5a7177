"""`preprocessing` of the TensorRT-LLM ensemble: QUERY BYTES [n, 1], REQUEST_OUTPUT_LEN INT32 [n, 1] -> INPUT_ID
INT32 [n, longest], REQUEST_INPUT_LEN, REQUEST_OUTPUT_LEN, OUT_END_ID, OUT_PAD_ID, each INT32 [n, 1].

Thin: the text is tokenised as it stands, by the checkpoint's own tokenizer.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.checkpoint.chat_format import ChatFormat


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._chat = ChatFormat.load(Path(parameters["tokenizer_dir"]["string_value"]))
        self._end_id = min(self._chat.end_ids, default=0)

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        try:
            texts = [value.decode() for value in _values(request, "QUERY").ravel()]
        except UnicodeDecodeError as error:
            code = pb_utils.TritonError.INVALID_ARG
            failure = pb_utils.TritonError(f"text_input: not UTF-8 (byte {error.start}).", code)
            return pb_utils.InferenceResponse(error=failure)
        rows = [self._chat.encode_plain(text) for text in texts]
        ids = np.full((len(rows), max(map(len, rows))), self._end_id, np.int32)
        for row, made in zip(ids, rows, strict=True):
            row[: len(made)] = made
        column = np.full((len(rows), 1), self._end_id, np.int32)
        outputs = {
            "INPUT_ID": ids,
            "REQUEST_INPUT_LEN": np.array([[len(made)] for made in rows], np.int32),
            "REQUEST_OUTPUT_LEN": _values(request, "REQUEST_OUTPUT_LEN"),
            "OUT_END_ID": column,
            "OUT_PAD_ID": column,
        }
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in outputs.items()])


def _values(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
