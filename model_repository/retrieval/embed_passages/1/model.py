"""`embed_passages` on Triton: the model `embed` in a process of its own that gives way to everything else.

Ingest embeds here, so that a question never stands in line behind a batch of passages, and gets the processor as soon
as it wants it. Loading gives way too: no start waits for it, the first batch does. What keeps it from loading keeps
`embed`, which reads the same folders, from starting, and that ends the start with the reason.
"""

from __future__ import annotations

import importlib.util
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from gateway.priority import run_when_idle

SAME_CODE = Path(__file__).resolve().parents[2] / "embed" / "1" / "model.py"


def _load():
    spec = importlib.util.spec_from_file_location("tidegate_embed", SAME_CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TritonPythonModel(_load().TritonPythonModel):
    def initialize(self, args):
        # This thread runs all requests. Those that come of it have its priority: the loader and the runtime's. The
        # stub's other threads keep telling Triton that it lives.
        run_when_idle({threading.get_native_id()})
        loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._loaded: Future[None] = loader.submit(super().initialize, args)
        loader.shutdown(wait=False)

    def execute(self, requests):
        self._loaded.result()
        return super().execute(requests)
