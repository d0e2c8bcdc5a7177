"""`tidegate plan`: the arithmetic in plain numbers, and what the command prints."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli import main
from gateway.cli.plan_sizing import Figures, Load, size

FIGURES = Figures(
    measured_on="a test",
    gateway_core_ms_per_request=2.0,
    gateway_core_ms_per_token=0.02,
    edge_core_ms_per_token=0.01,
    retrieval_core_ms_per_request=10.0,
    kib_per_stream=16.0,
    max_streams_per_worker=5000,
)
# Think 90 s, answer 10 s: 7,500 users ask 75 questions/s, and 750 streams are open.
LOAD = Load(users=7500, think_s=90.0, answer_tokens=200, first_token_s=2.0, tokens_per_s=25.0)


def test_littles_law_gives_questions_and_streams() -> None:
    need = size(FIGURES, LOAD)
    assert (need.questions_per_s, need.open_streams, need.tokens_per_s) == (75.0, 750, 15_000.0)


def test_cores_are_rate_times_cost() -> None:
    need = size(FIGURES, LOAD)
    assert need.gateway_cores == pytest.approx(75 * 0.002 + 15_000 * 0.00002)
    assert need.edge_cores == pytest.approx(0.15)
    assert need.retrieval_cores == pytest.approx(0.75)


def test_spare_nodes_are_counted() -> None:
    need = size(FIGURES, LOAD)
    assert (need.gateway_nodes, need.retrieval_nodes, need.nodes) == (2, 2, 4)


def test_gpus_are_only_counted_from_a_rate() -> None:
    assert size(FIGURES, LOAD).gpus is None
    with_rate = msgspec.structs.replace(LOAD, gpu_tokens_per_s=2500.0, utilisation=0.5, model_share=0.5)
    assert size(FIGURES, with_rate).gpus == 6


def test_what_binds_is_named() -> None:
    assert size(msgspec.structs.replace(FIGURES, kib_per_stream=2**20), LOAD).bound_by == "memory"
    assert size(msgspec.structs.replace(FIGURES, max_streams_per_worker=1), LOAD).bound_by == "open streams"
    assert (
        size(msgspec.structs.replace(FIGURES, gateway_core_ms_per_request=9e4), LOAD).bound_by == "processor"
    )


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_users_never_need_less(users: int, more: int) -> None:
    few = size(FIGURES, msgspec.structs.replace(LOAD, users=users, gpu_tokens_per_s=1000.0))
    many = size(FIGURES, msgspec.structs.replace(LOAD, users=users + more, gpu_tokens_per_s=1000.0))
    assert many.nodes >= few.nodes
    assert many.gateway_workers >= few.gateway_workers
    assert (many.gpus or 0) >= (few.gpus or 0)


def test_the_command_prints_result_assumptions_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "--users", "100000"])
    assert left.value.code == 0
    printed = capsys.readouterr().out
    assert "gateway nodes" in printed
    assert "give --gpu-tokens" in printed
    assert "--think" in printed
    assert "the design's bound" in printed or "measured" in printed


def test_figures_of_your_own_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(msgspec.json.encode(FIGURES))
    with pytest.raises(SystemExit):
        main(["plan", "--users", "7500", "--think", "92", "--figures", str(path), "--json"])
    assert json.loads(capsys.readouterr().out)["figures"]["measured_on"] == "a test"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--figures", "nowhere.json"], "cannot be read"),
        (["--utilisation", "0"], "cannot be planned"),
        (["--pace", "0"], "cannot be planned"),
    ],
    ids=["no file", "no use", "no pace"],
)
def test_what_cannot_be_planned_is_told(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["plan", "--users", "10", *args])
    assert left.value.code == 2
    assert said in capsys.readouterr().err
