"""What TensorRT-LLM's C++ backend is to the ensemble, without a GPU: output token n is input token n modulo the prompt.

One response a token, the last one with the final flag on its content. A request with `stop` ends the one of the same
id, and gets an empty answer. A line for each end is written to `<gpt_model_path>/ends`: `<id> done|stopped <tokens>`.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
STEP_S = 0.002


class TritonPythonModel:
    def initialize(self, args):
        parameters = json.loads(args["model_config"])["parameters"]
        self._ends = Path(parameters["gpt_model_path"]["string_value"]) / "ends"
        self._lock = threading.Lock()
        self._stopped = {}

    def execute(self, requests):
        for request in requests:
            values = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
            sender = request.get_response_sender()
            if "stop" in values and values["stop"].item():
                stop = self._stopped.get(request.request_id())
                if stop is not None:
                    stop.set()
                sender.send(flags=FINAL)
                continue
            stop = self._stopped[request.request_id()] = threading.Event()
            threading.Thread(target=self._run, args=(request.request_id(), values, sender, stop)).start()

    def _run(self, request_id, values, sender, stop):
        prompt = values["input_ids"].ravel()[: values["input_lengths"].item()]
        count = values["request_output_len"].item()
        for number in range(count):
            tokens = np.array([[[prompt[number % len(prompt)]]]], np.int32)
            outputs = [
                pb_utils.Tensor("output_ids", tokens),
                pb_utils.Tensor("sequence_length", np.array([[1]], np.int32)),
            ]
            is_last = number == count - 1 or stop.is_set()
            sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL if is_last else 0)
            if is_last:
                break
            time.sleep(STEP_S)
        with self._lock, self._ends.open("a") as file:
            file.write(f"{request_id} {'stopped' if stop.is_set() else 'done'} {number + 1}\n")
