"""A generative tier's model that takes its time: the last message is JSON, `num_tokens` of them `every_ms` apart.

It works a little for each token, as a real one does, so that it can be seen at work from outside. A request without
messages, as a canary is, gets an empty answer.
"""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
WORK_S = 0.01  # of processor time for a token


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            messages = pb_utils.get_input_tensor_by_name(request, "messages")
            knobs = {} if messages is None else json.loads(json.loads(messages.as_numpy()[0])[-1]["content"])
            threading.Thread(target=_write, args=(knobs, request.get_response_sender())).start()


def _write(knobs, sender):
    for number in range(knobs.get("num_tokens", 0)):
        time.sleep(knobs["every_ms"] / 1000)
        until = time.thread_time() + WORK_S
        while time.thread_time() < until:
            pass
        tensors = [
            pb_utils.Tensor("text_output", np.array([b"x"], np.object_)),
            pb_utils.Tensor("output_ids", np.array([number], np.int32)),
        ]
        sender.send(pb_utils.InferenceResponse(tensors))
    sender.send(flags=FINAL)
