"""Triton's own protocol through Envoy's inner listener: stock clients reach every model."""

from __future__ import annotations

import json
import queue
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton

from gateway.tensors import EMBED, EMBEDDING_DIM, READER, RETRIEVE
from perf.perf_analyzer import QUESTIONS, SCOPE, Load, ToolMissing, command, tool_environment
from perf.points import parse


@pytest.fixture
def client(service: Any) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.settings.triton_target) as client:
        yield client


def text_input(name: str, value: str, shape: list[int]) -> triton.InferInput:
    tensor = triton.InferInput(name, shape, "BYTES")
    tensor.set_data_from_numpy(np.array([value.encode()], np.object_).reshape(shape))
    return tensor


def scope() -> str:
    return json.dumps({"tenant_id": SCOPE.tenant_id, "k": SCOPE.k})


def test_the_stock_client_embeds_a_text(client: triton.InferenceServerClient) -> None:
    found = client.infer(EMBED.name, [text_input("text", "What does Envoy do?", [1, 1])]).as_numpy(
        "embedding"
    )
    assert found.shape == (1, EMBEDDING_DIM)
    assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-3)


def test_the_stock_client_retrieves_passages(client: triton.InferenceServerClient) -> None:
    inputs = [text_input("text", "What does Envoy do?", [1, 1]), text_input("scope", scope(), [1, 1])]
    passages = json.loads(client.infer(RETRIEVE.name, inputs).as_numpy("passages")[0, 0])
    assert len(passages) == SCOPE.k


def test_the_stock_client_reads_a_decoupled_stream(client: triton.InferenceServerClient) -> None:
    """An answer without passages is one message, which carries the finish reason."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    values = {"question": "What does Envoy do?", "passages": "[]", "params": '{"mode": "fast"}'}
    client.async_stream_infer(READER.name, [text_input(name, value, [1]) for name, value in values.items()])
    result, error = answers.get(timeout=20)
    client.stop_stream()
    assert error is None
    assert result.as_numpy("finish_reason")[0] == b"no_answer"


def test_perf_analyzer_measures_a_model(service: Any, tmp_path: Path) -> None:
    try:
        environment = tool_environment()
    except ToolMissing as missing:
        pytest.skip(str(missing))
    load = Load(RETRIEVE, [{"text": [question], "scope": [scope()]} for question in QUESTIONS], turns=5)
    (tmp_path / "data.json").write_text(json.dumps({"data": load.steps}))
    argv = command(load, service.settings.triton_target, 2, tmp_path / "data.json", tmp_path / "out.csv", 1.0)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (point,) = parse((tmp_path / "out.csv").read_text())
    assert point.concurrency == 2
    assert point.requests_per_s > 1
    assert 0 < point.p50_ms <= point.p99_ms
