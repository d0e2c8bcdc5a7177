"""`postprocessing` of the TensorRT-LLM ensemble: TOKENS_BATCH INT32 [1, beams, length], SEQUENCE_LENGTH INT32
[1, beams] -> OUTPUT BYTES [1, beams], OUTPUT_IDS INT32 [1, number of new tokens] of the first beam.

One response at a time, so its text knows nothing of the tokens before: who wants whole characters and right spaces
decodes OUTPUT_IDS.
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
        self._tokenizer = ChatFormat.load(Path(parameters["tokenizer_dir"]["string_value"])).tokenizer

    def execute(self, requests):
        return [self._respond(request) for request in requests]

    def _respond(self, request):
        tokens, lengths = _values(request, "TOKENS_BATCH")[0], _values(request, "SEQUENCE_LENGTH")[0]
        beams = [beam[:length].tolist() for beam, length in zip(tokens, lengths, strict=True)]
        texts = [self._tokenizer.decode(beam).encode() for beam in beams]
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("OUTPUT", np.array([texts], np.object_)),
                pb_utils.Tensor("OUTPUT_IDS", np.array([beams[0]], np.int32)),
            ]
        )


def _values(request, name):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()
