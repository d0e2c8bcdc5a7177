"""A decoupled model with knobs: `num_ticks` answers, `delay_ms` apart.

fail_at: the tick that is an error instead; -1 kills the process. report: a file that gets `cancelled` or `done`.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            threading.Thread(target=_tick, args=(request,)).start()


def _tick(request: Any) -> None:
    sender = request.get_response_sender()
    num_ticks, delay_ms, fail_at = (_int(request, name) for name in ("num_ticks", "delay_ms", "fail_at"))
    if fail_at == -1:
        os._exit(1)
    ended = "done"
    for number in range(num_ticks or 0):
        time.sleep((delay_ms or 0) / 1000.0)
        if sender.is_cancelled():
            ended = "cancelled"
            break
        if number == fail_at:
            sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("asked to fail")))
            break
        sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("tick", np.array([number], np.int32))]))
    report = pb_utils.get_input_tensor_by_name(request, "report")
    if report is not None:
        Path(report.as_numpy()[0].decode()).write_text(ended)
    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _int(request: Any, name: str) -> int | None:
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    return None if tensor is None else int(tensor.as_numpy()[0])
