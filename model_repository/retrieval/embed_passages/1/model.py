"""`embed_passages` on Triton: the model `embed` in a process of its own that gives way to everything else.

Ingest embeds here, so that a question never stands in line behind a batch of passages, and gets the processor as soon
as it wants it.
"""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path

from gateway.priority import run_when_idle, threads

SAME_CODE = Path(__file__).resolve().parents[2] / "embed" / "1" / "model.py"


def _load():
    spec = importlib.util.spec_from_file_location("tidegate_embed", SAME_CODE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TritonPythonModel(_load().TritonPythonModel):
    def initialize(self, args):
        others = threads()
        super().initialize(args)
        # After the start, which others wait for. The runtime's threads and this one, which runs all requests; the
        # stub's own threads keep telling Triton that it lives.
        run_when_idle(threads() - others | {threading.get_native_id()})
