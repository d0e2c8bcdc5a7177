"""Copies of vectors in a GPU's memory, searched exactly there. Only with a FAISS that was built for GPUs."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from gateway.settings import SettingsError

MAX_K = 2048  # that FAISS finds on a GPU at once
RETRY_S = 60.0  # after a copy for which there was no room

log = logging.getLogger(__name__)

_faiss: Any = faiss
Vectors = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class GpuSearch:
    """The first GPU that is visible. Raises, when made: SettingsError where FAISS or the machine has none."""

    def __init__(self) -> None:
        if not hasattr(_faiss, "StandardGpuResources") or not hasattr(_faiss, "index_cpu_to_gpu"):
            raise SettingsError(
                "TIDEGATE_SEARCH_DEVICE=gpu: this FAISS was built without GPUs; install faiss-gpu in place of "
                "faiss-cpu, or set it to cpu."
            )
        if not _faiss.get_num_gpus():
            raise SettingsError(
                "TIDEGATE_SEARCH_DEVICE=gpu: FAISS sees no GPU; check with `nvidia-smi`, or set it to cpu."
            )
        self._resources = _faiss.StandardGpuResources()
        self._lock = threading.Lock()  # the resources' scratch memory is for one search at a time
        self._full_until = 0.0

    @property
    def has_room(self) -> bool:
        """Whether a copy is worth trying: not right after one that did not fit."""
        return time.monotonic() >= self._full_until

    def copy_of(self, vectors: Vectors) -> GpuCopy | None:
        """None where the GPU has no room for it: the graph that was built for them must not be lost. Shapes: [N, D]."""
        try:
            flat = _faiss.IndexFlatIP(vectors.shape[1])
            flat.add(vectors)
            with self._lock:
                return GpuCopy(_faiss.index_cpu_to_gpu(self._resources, 0, flat), self._lock)
        except (RuntimeError, MemoryError) as error:  # FAISS's own, and the processor's memory
            log.warning(
                "%d vectors are searched on the processor: no copy on the GPU: %s", len(vectors), error
            )
            self._full_until = time.monotonic() + RETRY_S
            return None


class GpuCopy:
    """Never changed. Any number of threads may search."""

    def __init__(self, index: Any, lock: threading.Lock) -> None:
        self._index, self._lock = index, lock

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ints]:
        """Scores and rows, best first. Shapes: [Q, D] -> [Q, k] each; k at most MAX_K."""
        with self._lock:
            scores, rows = self._index.search(queries, k)
        return scores, rows
