"""Triton model `search`: candidates near an embedding and a question, in the collections that the scope allows.

Shapes: embedding FP32[D], text BYTES[1], scope BYTES[1] (JSON of types.Scope)
-> passages BYTES[1] (JSON list of types.Passage, best first), search_ms FP32[1] (time of the whole batch),
embedders BYTES[1] (JSON list of the other embedders in the scope's collections), epoch INT64[1] (of the corpus; at
least so new is what was searched).
A bad request gets an error of its own; its batch goes on. A store that is away fails the batch as unavailable.
"""

from __future__ import annotations

import logging
import time
from typing import Any, NamedTuple

import msgspec
import numpy as np
import triton_python_backend_utils as pb_utils

from gateway.errors import InvalidRequest, UpstreamError
from gateway.ports import SearchRequest
from gateway.retrieval.stores import open_store
from gateway.settings import load_settings
from gateway.storage.database import Database
from gateway.types import Scope

DATABASE_WAIT_S = 30.0


class Answer(NamedTuple):
    passages: bytes | InvalidRequest
    embedders: list[str]


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        """Returns, and so makes the model ready, once the corpus is searchable."""
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s search %(levelname)s %(message)s"
        )
        self._decode_scope = msgspec.json.Decoder(Scope).decode
        self._encode = msgspec.json.Encoder().encode
        self._database = Database(settings.sql_url)
        self._store = open_store(settings, self._database)
        self._store.start(DATABASE_WAIT_S)
        self._metrics = _show_refusal(args["model_name"], self._store.has_refused_snapshot)

    def execute(self, requests: list[Any]) -> list[Any]:
        started = time.perf_counter()
        jobs: list[SearchRequest] = []
        plans = [self._plan(request, jobs) for request in requests]
        epoch = self._store.epoch  # before the search, which may see a newer one
        try:
            answers = self._store.search(jobs)
            embedders = [self._store.embedders(job.scope) for job in jobs]
        except UpstreamError as error:
            away = f"{error.code}: {error.detail or error.message}"
            return [_error(away, is_away=True) for _ in requests]
        elapsed_ms = (time.perf_counter() - started) * 1000.0
        found = [Answer(answer, others) for job, answer, others in zip(jobs, answers, embedders, strict=True)]
        return [self._respond(plan, found, elapsed_ms, epoch) for plan in plans]

    def finalize(self) -> None:
        self._store.close()
        self._database.close()

    def _plan(self, request: Any, jobs: list[SearchRequest]) -> range | str:
        """Adds the request's rows to the jobs; returns where they stand, or what is wrong with the request."""
        embeddings = pb_utils.get_input_tensor_by_name(request, "embedding").as_numpy()
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        scopes = pb_utils.get_input_tensor_by_name(request, "scope").as_numpy()
        try:
            rows = [
                SearchRequest(embedding, text.decode(), self._decode_scope(scope))
                for embedding, text, scope in zip(embeddings, texts[:, 0], scopes[:, 0], strict=True)
            ]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return f"The scope or the text is not valid: {error}."
        jobs += rows
        return range(len(jobs) - len(rows), len(jobs))

    def _respond(self, plan: range | str, answers: list[Answer], elapsed_ms: float, epoch: int) -> Any:
        if isinstance(plan, str):
            return _error(plan)
        passages, embedders = np.empty((2, len(plan), 1), object)
        for row, number in enumerate(plan):
            answer = answers[number]
            if isinstance(answer.passages, InvalidRequest):
                return _error(answer.passages.message)
            passages[row, 0] = answer.passages
            embedders[row, 0] = self._encode(answer.embedders)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("passages", passages),
                pb_utils.Tensor("search_ms", np.full((len(plan), 1), elapsed_ms, np.float32)),
                pb_utils.Tensor("embedders", embedders),
                pb_utils.Tensor("epoch", np.full((len(plan), 1), epoch, np.int64)),
            ]
        )


def _show_refusal(model: str, is_refused: bool) -> tuple[Any, Any]:
    """In Triton's own metrics, until the next start. Returns what must be kept for as long as it is to be seen."""
    family = pb_utils.MetricFamily(
        name="tidegate_search_snapshot_refused",
        description="Whether the last start found a snapshot that was no good (1), so that SQL was read (0 = no).",
        kind=pb_utils.MetricFamily.GAUGE,
    )
    gauge = family.Metric(labels={"model": model})
    gauge.set(float(is_refused))
    return family, gauge


def _error(message: str, *, is_away: bool = False) -> Any:
    # Looked up here: the stub that only completes the config has no TritonError.
    code = pb_utils.TritonError.UNAVAILABLE if is_away else pb_utils.TritonError.INVALID_ARG
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
