"""Scenario files: those of the project are right, and mistakes are told."""

from __future__ import annotations

import pytest

from perf.load import arms
from perf.load.__main__ import shortened
from perf.load.arrivals import plan
from perf.load.generator import num_processes
from perf.load.scenario import ScenarioError, load, names, parse

HEAD = 'title = "t"\nwhat = "w"\n'
PHASE = '[[phases]]\nname = "p"\nduration_s = 5\n'


@pytest.mark.parametrize("name", names())
def test_a_scenario_of_the_project_can_be_planned(name: str) -> None:
    scenario = shortened(load(name))
    planned, windows = plan(scenario, scenario.phases, 10.0, seed=1)
    assert bool(planned) == bool(scenario.phases)
    assert len(windows) == len(scenario.phases)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD, "no phases"),
        (HEAD + PHASE, "either rate or of_peak"),
        (HEAD + PHASE + "rate = 1\nwarm_s = 5\n", "warm for all"),
        (HEAD + PHASE + 'rate = 1\nsources = ["x"]\n', "unknown source 'x'"),
        (HEAD + PHASE + "rat = 1\n", "unknown field"),
        (HEAD + "arms = [", "t: "),
        (HEAD + 'arms = ["envoy"]\n[model]\nbackend = "fast"\n' + PHASE + "rate = 1\n", "no model but"),
    ],
    ids=["no phase", "no rate", "warm", "source", "typo", "not TOML", "other model"],
)
def test_a_mistake_is_told(text: str, said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        parse(text, "t")


def test_an_unknown_name_tells_the_known_ones() -> None:
    with pytest.raises(ScenarioError, match="overload"):
        load("nothing")


def test_more_processes_send_what_one_cannot() -> None:
    scenario = load("small")
    planned, _ = plan(scenario, scenario.phases, 1.0, seed=1)
    assert num_processes(planned, 5.0) == 1
    assert num_processes(planned, 5.0, wanted=3) == 3
    assert num_processes([p for p in planned for _ in range(400)], 5.0) > 2


def test_the_tier_waits_longer_than_any_caller() -> None:
    assert "first_token_s = 90" in arms.tiers_file(1, 16, 30.0)
