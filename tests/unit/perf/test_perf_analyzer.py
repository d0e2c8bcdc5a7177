from __future__ import annotations

from pathlib import Path

import pytest

from gateway.settings import Settings, load_settings
from gateway.tensors import EMBED, READER, Model
from perf import perf_analyzer
from perf.perf_analyzer import Load, ToolMissing, command, loads, tool_environment
from tests.fakes.engines import PASSAGES


def command_of(load: Load, concurrency: int = 4) -> str:
    return " ".join(command(load, "127.0.0.1:8081", concurrency, Path("in.json"), Path("out.csv"), 1.5))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "tiers.toml").write_text('[small]\ncheckpoint = "c"\nslots = 8\n')
    return load_settings({}, var=tmp_path, tiers_file=str(tmp_path / "tiers.toml"))


@pytest.mark.parametrize(("model", "streams"), [(EMBED, False), (READER, True)], ids=["unary", "decoupled"])
def test_only_decoupled_models_are_streamed(model: Model, streams: bool) -> None:
    assert ("--streaming" in command_of(Load(model, []))) is streams


def test_a_fast_model_is_measured_by_time() -> None:
    assert "--measurement-interval 1500" in command_of(Load(EMBED, []))


def test_a_slow_model_is_measured_by_requests() -> None:
    found = command_of(Load(READER, [], turns=2), concurrency=8)
    assert "--measurement-mode count_windows --measurement-request-count 16" in found
    assert "--measurement-interval" not in found


def test_every_model_that_callers_reach_has_a_load(settings: Settings) -> None:
    found = loads(settings, PASSAGES)
    assert [load.model.name for load in found] == ["embed", "retrieve", "reader", "small"]


def test_each_request_fits_its_model(settings: Settings) -> None:
    for load in loads(settings, PASSAGES):
        known = {tensor.name for tensor in load.model.inputs}
        required = {tensor.name for tensor in load.model.inputs if not tensor.optional}
        assert all(required <= step.keys() <= known for step in load.steps)


def test_a_tier_is_never_asked_for_more_than_its_slots(settings: Settings) -> None:
    assert loads(settings, PASSAGES)[-1].concurrencies == (1, 2, 4, 8)


def test_a_missing_tool_is_told_with_the_way_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perf_analyzer, "TOOL", tmp_path)
    with pytest.raises(ToolMissing, match="make perf-analyzer"):
        tool_environment()
