"""Figures of a load run, in plain numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perf.load import rows
from perf.load.arrivals import Window
from perf.load.fairness import entitled, jain, satisfaction
from perf.load.figures import derive, verdicts
from perf.load.peak import Probe, best, next_rate
from perf.load.report import page
from perf.load.rows import LoadRow
from perf.load.scenario import PeakSearch, Phase, Scenario, Slo, Source
from perf.load.summary import is_good, lateness, max_concurrent, phase_summary, recovery_s

SCENARIO = Scenario(title="", what="", slo=Slo(ttft_s=1.0, tpot_s=0.1), phases=[Phase("p", 10.0, rate=1.0)])
WINDOW = Window("p", 0.0, 0.0, 10.0, 1.0)


def row(at_s: float = 0.0, ttft_s: float = 0.5, gap_ms: float = 20.0, **other: object) -> LoadRow:
    """A complete answer of five tokens, sent on time."""
    fields: dict[str, object] = {
        "arm": "a", "phase": "p", "number": 0, "source": "all", "tenant": "all", "priority": "interactive",
        "is_counted": True, "intended_s": at_s, "started_s": at_s, "sent_s": at_s, "first_s": at_s + ttft_s,
        "done_s": at_s + ttft_s + 4 * gap_ms / 1000, "status": 200, "outcome": "completed", "num_tokens": 5,
        "reads": [(ttft_s * 1000 + step * gap_ms, 1) for step in range(5)],
    }  # fmt: skip
    return LoadRow(**{**fields, **other})  # type: ignore[arg-type]


REFUSED: dict[str, object] = {
    "outcome": "rejected",
    "first_s": 0.0,
    "reads": [],
    "num_tokens": 0,
    "status": 503,
}


def test_times_are_what_the_formulas_say() -> None:
    late = row(started_s=0.1, sent_s=0.2)
    assert (late.ttft_s, late.lateness_s, late.tpot_s) == pytest.approx((0.5, 0.1, 0.02))
    assert late.itl_s == pytest.approx([0.02] * 4)


def test_texts_of_one_read_have_no_gap() -> None:
    assert row(reads=[(10.0, 2), (40.0, 3)]).itl_s == [0.0, 0.03, 0.0, 0.0]


@pytest.mark.parametrize(
    ("made", "good"),
    [
        (row(), True),
        (row(ttft_s=1.01), False),
        (row(gap_ms=101.0), False),
        (row(**REFUSED), False),
        (row(outcome="cached"), True),
    ],
    ids=["within", "first text late", "tokens slow", "refused", "cached"],
)
def test_good_is_complete_and_within_every_bound(made: LoadRow, good: bool) -> None:
    assert is_good(made, SCENARIO.slo) is good


def test_the_wait_before_a_late_send_counts_against_the_slo() -> None:
    assert not is_good(row(sent_s=2.0, started_s=2.0, first_s=2.1), SCENARIO.slo)


def test_offered_admitted_completed_and_goodput_are_four_rates() -> None:
    found = phase_summary(
        [row(), row(ttft_s=3.0), row(outcome="failed", code="cut"), row(**REFUSED)],
        WINDOW,
        SCENARIO,
    )
    rates = [found[name] for name in ("offered", "admitted", "completed", "goodput")]
    assert rates == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found["outcomes"] == {"completed": 2, "failed": 1, "rejected": 1}
    assert found["by"]["priority"]["interactive"]["success"] == 0.5


def test_an_answer_counts_in_the_window_in_which_its_texts_came() -> None:
    """Two of five texts before the window's end; and an answer of the warm-up, three of whose texts are in it."""
    window = Window("p", 0.0, 1.0, 10.0, 1.0)
    late = row(at_s=9.0, ttft_s=0.97, gap_ms=20.0)
    early = row(at_s=0.5, ttft_s=0.47, gap_ms=20.0, is_counted=False)
    assert phase_summary([late], window, SCENARIO)["goodput"] == pytest.approx(2 / 5 / 9, abs=1e-3)
    assert phase_summary([early], window, SCENARIO)["completed"] == pytest.approx(3 / 5 / 9, abs=1e-3)
    cached = row(at_s=3.0, outcome="cached", reads=[])
    assert phase_summary([cached], window, SCENARIO)["completed"] == pytest.approx(1 / 9, abs=1e-3)


def test_a_source_may_have_bounds_of_its_own() -> None:
    scenario = Scenario(
        title="", what="", sources=[Source("all", slo=Slo(ttft_s=5.0))], phases=SCENARIO.phases
    )
    assert phase_summary([row(ttft_s=3.0)], WINDOW, scenario)["goodput"] == 0.1


def test_etas_are_near_within_a_quarter() -> None:
    told = [row(eta_s=1.0, queue_s=queue_s) for queue_s in (0.7, 0.9, 1.2, 1.4)]
    assert phase_summary([*told, row()], WINDOW, SCENARIO)["eta_within"] == {"share": 0.5, "waiters": 4}


def test_an_eta_that_comes_with_the_text_foretells_nothing() -> None:
    told = [row(eta_s=2.0, queue_s=2.0, told_s=told_s, first_s=2.1) for told_s in (1.0, 2.1)]
    assert phase_summary(told, WINDOW, SCENARIO)["eta_within"] == {"share": 1.0, "waiters": 1}


def test_a_short_wait_is_judged_like_a_long_one() -> None:
    told = [row(eta_s=0.05, queue_s=queue_s) for queue_s in (0.004, 0.06, 0.2)]
    assert phase_summary(told, WINDOW, SCENARIO)["eta_within"] == {"share": 0.3333, "waiters": 3}


def test_jain_is_one_for_equals_and_one_nth_for_one_taker() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 1.0


def test_max_min_gives_the_modest_all_and_the_flooder_what_is_left() -> None:
    assert entitled({"a": 1.0, "b": 2.0, "flood": 50.0}, 10.0) == {"a": 1.0, "b": 2.0, "flood": 7.0}
    assert entitled({"a": 4.0, "b": 8.0}, 6.0) == {"a": 3.0, "b": 3.0}


@given(st.dictionaries(st.text(max_size=3), st.floats(0.1, 100), min_size=1), st.floats(0.1, 1000))
def test_entitlements_never_exceed_demand_or_capacity(demands: dict[str, float], capacity: float) -> None:
    due = entitled(demands, capacity)
    assert all(part <= demands[name] + 1e-9 for name, part in due.items())
    assert sum(due.values()) == pytest.approx(min(capacity, sum(demands.values())))


def test_a_starved_tenant_shows_in_the_index() -> None:
    fair = satisfaction({"a": 1.0, "flood": 50.0}, {"a": 1.0, "flood": 9.0})
    starved = satisfaction({"a": 1.0, "flood": 50.0}, {"a": 0.0, "flood": 10.0})
    assert jain(list(fair.values())) == pytest.approx(1.0)
    assert jain(list(starved.values())) == pytest.approx(0.5)


def test_served_wholly_is_fair_whatever_the_length_of_the_answers() -> None:
    served = [row(tenant=name, num_tokens=length) for name, length in (("a", 5), ("b", 9), ("c", 2))]
    assert phase_summary(served, WINDOW, SCENARIO)["jain"] == 1.0
    starved = [*served, *(row(tenant="d", **REFUSED) for _ in range(3))]
    assert phase_summary(starved, WINDOW, SCENARIO)["jain"] < 0.8


def test_the_generator_tells_its_own_lateness() -> None:
    assert lateness([row()])["is_late"] is False
    told = lateness([row(started_s=0.05, sent_s=0.07), row(outcome="unsent", started_s=0.0)])
    assert told["is_late"] is True
    assert told["unsent"] == 1
    assert told["lateness_ms"]["p50"] == 50.0


def test_recovery_is_the_moment_after_the_last_bad_second() -> None:
    before, surge, after = Window("b", 0, 0, 5, 1), Window("s", 5, 5, 10, 9), Window("a", 10, 10, 20, 1)
    calm = [row(at / 10, phase="b") for at in range(50)]
    later = [row(10 + at / 10, phase="a", ttft_s=9.0 if at < 20 else 0.2) for at in range(100)]
    assert recovery_s(calm + later, before, surge, after, SCENARIO) == pytest.approx(2.0, abs=0.15)
    good = [row(10 + at / 10, phase="a") for at in range(100)]
    assert recovery_s(calm + good, before, surge, after, SCENARIO) == 0.0


def test_the_most_open_at_once_are_counted_from_send_to_end() -> None:
    assert max_concurrent([row(at_s) for at_s in (1.0, 1.1, 1.2, 5.0)]) == 3


def test_rows_survive_their_file(tmp_path: Path) -> None:
    kept = [row(), row(**REFUSED)]
    rows.write(tmp_path / "rows.jsonl.gz", kept)
    assert rows.read(tmp_path / "rows.jsonl.gz") == kept


@pytest.mark.parametrize("capacity", [3.0, 20.0, 300.0])
def test_the_search_finds_the_peak_of_a_service_that_collapses(capacity: float) -> None:
    probes: list[Probe] = []
    search = PeakSearch(max_probes=20)
    while (rate := next_rate(probes, search, capacity * 1.3)) is not None:
        good = rate if rate <= capacity else max(0.0, capacity - (rate - capacity))
        probes.append(Probe(rate, good))
    assert best(probes).goodput >= 0.88 * capacity
    assert len(probes) < 14


def test_the_search_looks_far_below_when_nothing_is_good() -> None:
    assert next_rate([Probe(10.0, 0.0)], PeakSearch(), 20.0) == 5.0


def test_targets_are_met_from_their_own_side() -> None:
    found = verdicts(
        {"kept@4x": 0.97, "recovery_s": 1.0, "jain@x": 0.98}, {"kept@4x": 0.98, "recovery_s": 1.2}
    )
    assert [is_met for *_, is_met in found] == [True, False, False]


def test_the_page_tells_bounds_formulas_and_what_was_left_out() -> None:
    figures = {"phases": {"p": phase_summary([row()], WINDOW, SCENARIO)}, "generator": lateness([row()])}
    figures["phases"]["p"]["kept_of_peak"] = 0.98  # type: ignore[index]
    arms = {
        "tidegate": {"peak": 1.0, "probes": [], "figures": figures},
        "nginx": {"missing": "no", "figures": {}},
    }
    text = page(SCENARIO, arms, {})
    assert "TTFT <= 1000 ms, TPOT <= 100 ms" in text
    assert "first non-empty text - intended send" in text
    assert "Left out: no." in text
    assert derive(figures)["kept@p"] == 0.98
