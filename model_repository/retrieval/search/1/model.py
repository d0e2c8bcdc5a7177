"""Triton model `search`: passages near an embedding, in the collections that the scope allows.

Shapes: embedding FP32[D], text BYTES[1], scope BYTES[1] (JSON of types.Scope)
-> passages BYTES[1] (JSON list of types.Passage, best first), search_ms FP32[1] (time of the whole batch).
`text` is carried for lexical search and not read yet. A bad request gets an error of its own; its batch goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.errors import InvalidRequest
from gateway.retrieval.index import CorpusIndex
from gateway.retrieval.tail import CorpusTail
from gateway.settings import load_settings
from gateway.storage.database import Database
from gateway.tensors import EMBEDDING_DIM
from gateway.types import Scope

DATABASE_WAIT_S = 30.0


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Returns, and so makes the model ready, once the corpus is searchable."""
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s search %(levelname)s %(message)s"
        )
        self._decode_scope = msgspec.json.Decoder(Scope).decode
        self._index = CorpusIndex(EMBEDDING_DIM)
        self._database = Database(settings.sql_url)
        tail = CorpusTail(self._database, self._index)
        tail.wait_for_database(DATABASE_WAIT_S)
        self._stop = threading.Event()
        self._follower = threading.Thread(
            target=tail.run, args=(self._stop,), name="corpus-tail", daemon=True
        )
        self._follower.start()

    def execute(self, requests: list[Any]) -> list[Any]:
        started = time.perf_counter()
        jobs: list[tuple[Any, Scope]] = []
        plans = [self._plan(request, jobs) for request in requests]
        answers = self._index.search(jobs)
        elapsed_ms = (time.perf_counter() - started) * 1000.0
        return [_respond(plan, answers, elapsed_ms) for plan in plans]

    def finalize(self) -> None:
        self._stop.set()
        self._follower.join()
        self._database.close()

    def _plan(self, request: Any, jobs: list[tuple[Any, Scope]]) -> range | str:
        """Adds the request's rows to the jobs; returns where they stand, or what is wrong with the request."""
        embeddings = pb_utils.get_input_tensor_by_name(request, "embedding").as_numpy()
        scopes = pb_utils.get_input_tensor_by_name(request, "scope").as_numpy()
        try:
            rows = [
                (embedding, self._decode_scope(scope))
                for embedding, scope in zip(embeddings, scopes[:, 0], strict=True)
            ]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"The scope is not valid: {error}."
        jobs += rows
        return range(len(jobs) - len(rows), len(jobs))


def _respond(plan: range | str, answers: list[bytes | InvalidRequest], elapsed_ms: float) -> Any:
    if isinstance(plan, str):
        return _error(plan)
    passages = np.empty((len(plan), 1), object)
    for row, number in enumerate(plan):
        answer = answers[number]
        if isinstance(answer, InvalidRequest):
            return _error(answer.message)
        passages[row, 0] = answer
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("passages", passages),
            pb_utils.Tensor("search_ms", np.full((len(plan), 1), elapsed_ms, np.float32)),
        ]
    )


def _error(message: str) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
