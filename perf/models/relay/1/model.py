"""`relay` on Triton, decoupled: the tensors of a generative tier (gateway/tensors.py), prepared texts for an engine.

Answers max_tokens tokens, each with its own text (perf.relay_text), one after the other over all running requests like
an engine that batches continuously. Tokens share messages by the service's own rule (generation.coalesce). `gap_ms=N`
anywhere in the prompt or the messages: the time between a request's tokens; without it they come as fast as Triton
takes them. `coalesce_ms=N` there is stronger than the tensor of that name.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.generation.coalesce import Coalescer
from perf.relay_text import chunk

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
KNOB = re.compile(rb"(gap_ms|coalesce_ms)=(\d{1,5})")
NUM_THREADS = 4  # Triton takes one message of a thread at a time; four get the most out of two cores
LOOK_EVERY = 16  # tokens between two looks whether a slow stream's client is still there


class TritonPythonModel:
    def initialize(self, args):
        self._due = Due()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(NUM_THREADS)]
        for thread in self._threads:
            thread.start()

    def execute(self, requests):
        for request in requests:
            self._due.began()
            self._due.put(Stream(request))

    def finalize(self):
        self._due.close()
        for thread in self._threads:
            thread.join()

    def _run(self):
        """Whichever stream is due takes its step. Those without a gap are due at once, behind all that are."""
        while (stream := self._due.take()) is not None:
            if stream.step(time.monotonic(), self._due.num_running):
                self._due.put(stream)
            else:
                self._due.ended()


class Due:
    """The streams that no thread works on, by the time of their next step."""

    def __init__(self):
        self._streams = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._is_closed = False
        self.num_running = 0

    def began(self):
        with self._changed:
            self.num_running += 1

    def ended(self):
        with self._changed:
            self.num_running -= 1

    def put(self, stream):
        with self._changed:
            heapq.heappush(self._streams, (stream.due_s, next(self._order), stream))
            self._changed.notify()

    def take(self):
        """Waits for the first that is due; None after close."""
        with self._changed:
            while not self._is_closed:
                left_s = self._streams[0][0] - time.monotonic() if self._streams else None
                if left_s is not None and left_s <= 0:
                    return heapq.heappop(self._streams)[2]
                self._changed.wait(left_s)

    def close(self):
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class Stream:
    """One request on its way."""

    def __init__(self, request):
        asked = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        knobs = {
            name: int(value)
            for name, value in KNOB.findall(asked.get("messages", asked.get("prompt", [b""]))[0])
        }
        coalesce_ms = int(asked["coalesce_ms"][0]) if "coalesce_ms" in asked else -1
        self._sender = request.get_response_sender()
        self._num_tokens = int(asked["max_tokens"][0]) if "max_tokens" in asked else 0
        self._gap_s = knobs.get(b"gap_ms", 0) / 1000
        self._coalescer = Coalescer(knobs.get(b"coalesce_ms", coalesce_ms))
        self._made = 0
        self.due_s = time.monotonic()

    def step(self, now_s, num_running):
        """Make one token; send what has waited long enough. Returns whether there is more to do."""
        if self._made < self._num_tokens:
            self._coalescer.add(chunk(self._made), [self._made], now_s, num_running)
            self._made += 1
        is_last = self._made == self._num_tokens
        if is_last or now_s + self._gap_s >= self._coalescer.due_s:
            self._send(self._coalescer.take(), is_last)
        if self._gap_s and self._made % LOOK_EVERY == 0 and not is_last and self._sender.is_cancelled():
            self._sender.send(flags=FINAL)
            return False
        self.due_s = max(self.due_s + self._gap_s, now_s) if self._gap_s else now_s
        return not is_last

    def _send(self, message, is_last):
        outputs = [
            pb_utils.Tensor("text_output", np.array([message.text.encode()], np.object_)),
            pb_utils.Tensor("output_ids", np.array(message.token_ids, np.int32)),
        ]
        if is_last:
            reason = b"length" if self._num_tokens else b"stop"
            outputs.append(pb_utils.Tensor("finish_reason", np.array([reason], np.object_)))
            outputs.append(pb_utils.Tensor("num_input_tokens", np.array([1], np.int32)))
        self._sender.send(pb_utils.InferenceResponse(outputs), flags=FINAL if is_last else 0)
