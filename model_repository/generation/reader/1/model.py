"""`reader` on Triton, decoupled: question, passages, params BYTES [1] -> a stream of deltas.

Each response: text_output, citations (JSON), finish_reason BYTES [1]; num_input_tokens, num_output_tokens INT32 [1],
word-piece estimates. The last one carries the finish reason and the final flag; a refused request gets one error, also
final.

Thin: what is quoted is decided in gateway.generation. `execute` only hands requests to threads, so a `deep` answer that
waits for the encoder holds up no other request. (Sending from `execute` itself crashes the 2.51 stub when other streams
of the model are cancelled meanwhile: seen, not understood.)
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.embedding.export import prepare_embedder
from gateway.embedding.runtime import SentenceEmbedder
from gateway.generation.extractive import MAX_EMBEDDED, answer, deltas, num_tokens
from gateway.generation.similarity import similarity_of
from gateway.generation.wire import decode_request
from gateway.settings import load_settings
from gateway.tensors import stream_error

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
INPUTS = ("question", "passages", "params")
NUM_THREADS = 4  # answers are made under one interpreter lock; the others only fill the encoder's waits


class TritonPythonModel:
    def initialize(self, args):
        settings = load_settings()
        folder = prepare_embedder(settings.models_dir, pb_utils.Logger.log_info)
        embedder = SentenceEmbedder(
            folder, precision=settings.embed_precision, threads=settings.embed_threads
        )
        self._similarity = similarity_of(embedder.embed)
        self._similarity(
            "Is it warm?", ["A sentence of about the usual length warms the encoder up."] * MAX_EMBEDDED
        )
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="reader")

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            raw = [pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0] for name in INPUTS]
            self._threads.submit(self._respond, raw, sender)

    def finalize(self):
        self._threads.shutdown()

    def _respond(self, raw, sender):
        """Send the whole stream. Ends with exactly one final flag, whatever happens."""
        try:
            asked = decode_request(*raw)
        except ValueError as error:
            _fail(sender, str(error), "INVALID_ARGUMENT")
            return
        try:
            self._stream(asked, sender)
        except Exception as error:  # noqa: BLE001 - the edge of the process: one request must not end the others
            pb_utils.Logger.log_error(f"reader: {type(error).__name__}: {error}")
            _fail(sender, "the reader failed on this request.", "INTERNAL")

    def _stream(self, asked, sender):
        is_deep = asked.params.mode == "deep"
        if is_deep and sender.is_cancelled():  # worth a round trip to Triton only before costly work
            sender.send(flags=FINAL)
            return
        num_input = num_tokens(asked.question) + sum(num_tokens(passage.text) for passage in asked.passages)
        found = answer(asked.question, asked.passages, asked.params, self._similarity)
        for number, delta in enumerate(deltas(found, num_input_tokens=num_input)):
            if (number or is_deep) and sender.is_cancelled():
                sender.send(flags=FINAL)
                return
            sender.send(_response(delta), flags=FINAL if delta.finish_reason else 0)


def _response(delta):
    return pb_utils.InferenceResponse(
        [
            _bytes("text_output", delta.text.encode()),
            _bytes("citations", msgspec.json.encode(delta.citations)),
            _bytes("finish_reason", delta.finish_reason.encode()),
            pb_utils.Tensor("num_input_tokens", np.array([delta.num_input_tokens], np.int32)),
            pb_utils.Tensor("num_output_tokens", np.array([delta.num_output_tokens], np.int32)),
        ]
    )


def _bytes(name, value):
    return pb_utils.Tensor(name, np.array([value], np.object_))


def _fail(sender, message, status):
    message = stream_error(status, message)
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(message)), flags=FINAL)
