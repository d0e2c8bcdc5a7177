"""A generative tier's model with knobs, in the tensors of gateway.tensors.generate_model. One token a character.

The last message's text is JSON: `text` is what it writes. fail_at: after that many tokens of the whole answer it ends
with UNAVAILABLE, once (an answer that is continued goes on). fail_always: after every new token. refuse: the text of an
INVALID_ARG. bad: `utf8` or `ids`, an output that is malformed. full: how often it says that its engine is full first.
version: what it calls itself. With a schema it writes that, in place of `text`.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import triton_python_backend_utils as pb_utils

_said_full = {}
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self._threads = ThreadPoolExecutor(4)

    def execute(self, requests):
        for request in requests:
            messages = pb_utils.get_input_tensor_by_name(request, "messages").as_numpy()[0]
            past = pb_utils.get_input_tensor_by_name(request, "continuation_ids")
            limit = pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()[0]
            start = 0 if past is None else len(past.as_numpy())
            schema = pb_utils.get_input_tensor_by_name(request, "json_schema")
            text = "" if schema is None else schema.as_numpy()[0].decode()
            self._threads.submit(
                _write, json.loads(messages), start, limit, text, request.get_response_sender()
            )


def _write(messages, start, limit, schema, sender):
    knobs = json.loads(messages[-1]["content"])
    knobs["text"] = schema or knobs["text"]
    if "refuse" in knobs:
        _fail(sender, "INVALID_ARGUMENT: " + knobs["refuse"])
        return
    times = _said_full[knobs["text"]] = _said_full.get(knobs["text"], 0) + 1
    if times <= knobs.get("full", 0):
        _fail(sender, "UNAVAILABLE: engine_full: all 1 slots are taken.")
        return
    text = knobs["text"][:limit]
    for at in range(start, len(text)):
        if (at == knobs.get("fail_at") and start < at) or (knobs.get("fail_always") and at > start):
            _fail(sender, "UNAVAILABLE: the replica is going away")
            return
        word = text[at].encode() if knobs.get("bad") != "utf8" else b"\xff"
        tensors = [pb_utils.Tensor("text_output", np.array([word], np.object_))]
        if knobs.get("bad") != "ids":
            tensors.append(pb_utils.Tensor("output_ids", np.array([ord(text[at])], np.int32)))
        sender.send(pb_utils.InferenceResponse(tensors))
    reason = b"length" if limit < len(knobs["text"]) else b"stop"
    last = [
        pb_utils.Tensor("text_output", np.array([b""], np.object_)),
        pb_utils.Tensor("output_ids", np.array([], np.int32)),
        pb_utils.Tensor("finish_reason", np.array([reason], np.object_)),
        pb_utils.Tensor("num_input_tokens", np.array([len(messages)], np.int32)),
    ]
    if "version" in knobs:
        last.append(pb_utils.Tensor("version", np.array([knobs["version"].encode()], np.object_)))
    sender.send(pb_utils.InferenceResponse(last), flags=FINAL)


def _fail(sender, message):
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message)), flags=FINAL)
