"""What judges a version on trial: real promtool works its queries out for good, bad and quiet versions."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.eval_score import ALL, Found, Row, metrics
from gateway.metrics import Metrics
from tests.config.k8s.manifests import Doc, containers, of_kind, rendered, selected

TIER = "small"
TRIAL_S = 600  # of counting, a sample each 15 s
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")


def templates() -> dict[str, dict[str, Any]]:
    docs = of_kind(rendered("production"), "AnalysisTemplate")
    return {metric["name"]: metric for doc in docs for metric in doc["spec"]["metrics"]}


def queries() -> dict[str, str]:
    found = {}
    for name, metric in templates().items():
        if prometheus := metric["provider"].get("prometheus"):
            found[name] = prometheus["query"].replace("{{args.tier}}", TIER)
    return found


def counting(name: str, labels: dict[str, str], *per_minute: float | tuple[int, float]) -> dict[str, str]:
    """A counter. per_minute: how fast it rises, for the trial and beyond, or in turn for so many seconds each."""
    values, last = [], 0.0
    for each in per_minute:
        lasts_s, speed = each if isinstance(each, tuple) else (TRIAL_S + 600, each)
        values.append(f"{last + (speed / 4 if values else 0):g}+{speed / 4:g}x{lasts_s // 15 - bool(values)}")
        last += speed / 4 * (lasts_s // 15)
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{text}}}", "values": " ".join(values)}


def version(side: str, *, ok: float, failed: float = 0.0, first_s: float = 0.1) -> list[dict[str, str]]:
    """What the workers count for one side's version, in a minute. first_s: of every first text."""
    labels = {"tier": TIER, "version": f"{side}-v", "side": side}
    answers = "tidegate_version_answers_total"
    rows = [counting(answers, labels | {"result": "ok"}, ok)]
    if failed:
        rows.append(counting(answers, labels | {"result": "failed"}, failed))
    for bound in ("0.08", "0.15", "0.3", "0.6", "1.2", "+Inf"):
        held = ok if float(bound) >= first_s else 0.0
        rows.append(counting("tidegate_version_first_text_seconds_bucket", labels | {"le": bound}, held))
    rows.append(counting("tidegate_version_first_text_seconds_count", labels, ok))
    return rows


def value(name: str, series: list[dict[str, str]], folder: Path, at_s: int = TRIAL_S) -> float | None:
    """What Prometheus says to the query then; None = nothing."""
    assert PROMTOOL is not None
    (folder / "rules.yaml").write_text(
        json.dumps({"groups": [{"name": "x", "rules": [{"record": "judged", "expr": queries()[name]}]}]})
    )
    case = {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [{"expr": "judged", "eval_time": f"{at_s}s", "exp_samples": []}],
    }
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "15s", "tests": [case]}
    (folder / "test.yaml").write_text(json.dumps(test))
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )  # fmt: skip
    text = done.stdout + done.stderr
    if done.returncode == 0:
        return None
    found = re.search(r"got:.*?(?:judged|\{\})[^\n]*? ([-+\d.eE]+|NaN)\b", text, re.DOTALL)
    assert found is not None, text
    return float(found[1])


def verdict(name: str, series: list[dict[str, str]], folder: Path, at_s: int = TRIAL_S) -> str:
    """good, bad, or nothing: as the controller reads the conditions."""
    got, metric = value(name, series, folder, at_s), templates()[name]
    limit = float(re.findall(r"result\[0\] < ([\d.]+)", metric["successCondition"])[0])
    assert f"result[0] >= {limit:g}" in metric["failureCondition"]
    assert {"len(result) > 0", "!isNaN(result[0])"} <= set(metric["successCondition"].split(" && "))
    if got is None or got != got:
        return "nothing"
    return "good" if got < limit else "bad"


STABLE = version("stable", ok=60)


@needs_promtool
@pytest.mark.parametrize(
    ("canary", "errors", "speed"),
    [
        (version("canary", ok=6), "good", "good"),
        (version("canary", ok=6, failed=1), "bad", "good"),
        (version("canary", ok=6, first_s=1.0), "good", "bad"),
        (version("canary", ok=1), "nothing", "nothing"),
        ([], "nothing", "nothing"),
    ],
    ids=["as-good", "fails", "slow", "quiet", "away"],
)
def test_a_version_is_judged_beside_the_one_in_force(
    canary: list[dict[str, str]], errors: str, speed: str, tmp_path: Path
) -> None:
    series = [*STABLE, *canary]
    assert verdict("errors-of-version", series, tmp_path) == errors
    assert verdict("first-text-of-version", series, tmp_path) == speed


@needs_promtool
def test_a_bad_hour_of_the_whole_tier_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    series = [*version("stable", ok=50, failed=10), *version("canary", ok=5, failed=1)]
    assert verdict("errors-of-version", series, tmp_path) == "good"


def ended(**per_minute: float) -> list[dict[str, str]]:
    """Requests of the tier, by how they ended."""
    requests = "tidegate_requests_total"
    return [
        counting(requests, {"tier": TIER, "outcome": outcome, "cause": ""}, speed)
        for outcome, speed in per_minute.items()
    ]


@needs_promtool
@pytest.mark.parametrize(
    ("requests", "expected"),
    [
        (ended(completed=60), "good"),
        (ended(completed=600, failed=6), "good"),
        (ended(completed=60, failed=6), "bad"),
        (ended(completed=60, failed=6, cached=6000, rejected=6000), "bad"),
        (ended(failed=60), "bad"),
        (ended(completed=4, failed=1), "nothing"),
        (ended(cached=6000), "nothing"),
        ([], "nothing"),
    ],
    ids=[
        "none-fails",
        "one-in-a-hundred",
        "one-in-ten",
        "beside-much-else",
        "all",
        "quiet",
        "remembered",
        "away",
    ],
)
def test_a_tier_is_judged_by_the_failures_among_its_own_answers(
    requests: list[dict[str, str]], expected: str, tmp_path: Path
) -> None:
    other = counting("tidegate_requests_total", {"tier": "other", "outcome": "failed", "cause": ""}, 600)
    assert verdict("errors", [*requests, other], tmp_path) == expected


@needs_promtool
@pytest.mark.parametrize(
    ("per_minute", "expected"), [(None, "good"), (0, "good"), (2, "good"), (6, "bad")], ids=str
)
def test_a_tier_is_judged_by_the_requests_that_it_misses(
    per_minute: float | None, expected: str, tmp_path: Path
) -> None:
    labels = {"cause": "upstream_unavailable", "instead": "fast"}
    series = [counting("tidegate_fallbacks_total", {"tier": "other"} | labels, 600)]
    if per_minute is not None:
        series.append(counting("tidegate_fallbacks_total", {"tier": TIER} | labels, per_minute))
    assert verdict("fallbacks", series, tmp_path) == expected


HOUR_S = 4200  # and ten minutes, which the comparison leaves out


def first_tokens(*phases: tuple[int, float, float]) -> list[dict[str, str]]:
    """The tier's times to the first token. phases: for so many seconds, so many a minute, each after that time."""
    name, labels = "tidegate_time_to_first_token_seconds", {"tier": TIER}
    rows = [counting(f"{name}_count", labels, *((lasts_s, speed) for lasts_s, speed, _ in phases))]
    for bound in ("0.1", "0.25", "0.5", "1.0", "2.5", "+Inf"):
        held = [(lasts_s, speed if float(bound) >= first_s else 0.0) for lasts_s, speed, first_s in phases]
        rows.append(counting(f"{name}_bucket", labels | {"le": bound}, *held))
    return rows


@needs_promtool
@pytest.mark.parametrize(
    ("series", "expected"),
    [
        (first_tokens((HOUR_S, 60, 0.2), (TRIAL_S, 60, 0.2)), "good"),
        (first_tokens((HOUR_S, 60, 0.2), (TRIAL_S, 600, 0.08)), "good"),
        (first_tokens((HOUR_S, 60, 0.2), (TRIAL_S, 60, 0.9)), "bad"),
        (first_tokens((HOUR_S, 60, 0.2), (TRIAL_S, 2, 0.9)), "nothing"),
        (first_tokens((HOUR_S, 60, 0.2), (TRIAL_S, 0, 0.2)), "nothing"),
        (first_tokens((HOUR_S, 0, 0.2), (TRIAL_S, 60, 0.2)), "nothing"),
        ([], "nothing"),
    ],
    ids=["as-before", "faster", "slow", "a-few-slow-ones", "quiet-now", "slept-before", "away"],
)
def test_a_tier_is_judged_by_its_first_texts_against_the_hour_before(
    series: list[dict[str, str]], expected: str, tmp_path: Path
) -> None:
    assert verdict("first-token", series, tmp_path, at_s=HOUR_S + TRIAL_S - 30) == expected


@needs_promtool
def test_every_query_is_one_for_prometheus(tmp_path: Path) -> None:
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries().values())]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": "analysis", "rules": rules}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_judges_a_version_selects_by_labels_that_its_metrics_have() -> None:
    names = {family._name: set(family._labelnames) for family in vars(Metrics().trials).values()}
    asked = {name: query for name, query in queries().items() if "tidegate_version" in query}
    of_tiers = {"errors", "fallbacks", "first-token"}
    assert of_tiers | set(asked) == set(queries())
    for name in of_tiers:
        for metric, selector in re.findall(
            r"(tidegate_\w+?)(?:_total|_bucket|_count)?\{([^}]*)\}", queries()[name]
        ):
            (labels,) = [
                set(each._labelnames)
                for each in vars(Metrics()).values()
                if metric == getattr(each, "_name", "")
            ]
            assert set(re.findall(r"(\w+)[=!]", selector)) <= labels
    assert set(asked) == {"errors-of-version", "first-text-of-version"}
    for query in asked.values():
        for metric, selector in re.findall(r"(tidegate_\w+?)(?:_total|_bucket|_count)?\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)[=!]", selector))
            assert "version" in names[metric]
            assert labels <= names[metric]
            assert "side" in labels


def golden_set() -> tuple[Doc, Doc, Doc]:
    """The Job, its container that asks the version in force, and the one that asks that on trial."""
    job = templates()["answer-quality"]["provider"]["job"]["spec"]
    (in_force, on_trial) = containers(job["template"])
    assert (in_force["name"], on_trial["name"]) == ("in-force", "on-trial")
    return job, in_force, on_trial


def option(container: Doc, name: str) -> str:
    return str(container["args"][container["args"].index(name) + 1])


def judged_rollouts() -> list[tuple[Doc, dict[str, str]]]:
    """Each Rollout that the golden set judges, and the arguments that it gives it."""
    found = []
    for doc in of_kind(rendered("production"), "Rollout"):
        strategy = doc["spec"]["strategy"]
        analyses = [
            step["analysis"] for step in strategy.get("canary", {}).get("steps", []) if "analysis" in step
        ]
        analyses += [one for key, one in strategy.get("blueGreen", {}).items() if key.endswith("Analysis")]
        for each in analyses:
            if {"templateName": "golden-set"} in each["templates"]:
                found.append((doc, {arg["name"]: arg["value"] for arg in each["args"]}))
    return found


def hosts_of(url: str, setting: str) -> dict[str, str]:
    """What the gateways behind an address are told: TIER=HOST,…"""
    docs = rendered("production")
    name = re.sub(r"http://|:8090$", "", url)
    (service,) = [doc for doc in of_kind(docs, "Service") if doc["metadata"]["name"] == name]
    (template,) = selected(docs, service["spec"]["selector"])
    (gateway,) = [each for each in containers(template) if each["name"] == "gateway"]
    told = {}
    for source in gateway["envFrom"]:
        (settings,) = [
            doc
            for doc in of_kind(docs, "ConfigMap")
            if doc["metadata"]["name"] == source["configMapRef"]["name"]
        ]
        told |= settings["data"]
    told |= {each["name"]: each.get("value", "") for each in gateway["env"]}
    return dict(pair.split("=") for pair in told.get(setting, "").split(",") if "=" in pair)


def test_the_yardstick_is_the_version_in_force_and_nothing_else() -> None:
    rollouts = judged_rollouts()
    assert {given["tier"] for _, given in rollouts} == {"small", "large"}
    _, in_force, on_trial = golden_set()
    assert option(in_force, "--url") == "{{args.in-force}}"
    for doc, given in rollouts:
        strategy, tier = doc["spec"]["strategy"], given["tier"]
        canary, blue_green = strategy.get("canary", {}), strategy.get("blueGreen", {})
        yardstick = given["in-force"]
        stable = canary.get("stableService") or blue_green["activeService"]
        assert hosts_of(yardstick, "TIDEGATE_TRITON_HOSTS")[tier] == stable
        assert tier not in hosts_of(yardstick, "TIDEGATE_CANARY_HOSTS")
        tried = canary.get("canaryService") or blue_green["previewService"]
        assert hosts_of(option(on_trial, "--url"), "TIDEGATE_TRITON_HOSTS")[tier] == tried


def test_no_other_tier_answers_for_the_one_that_is_judged() -> None:
    job, in_force, on_trial = golden_set()
    for each in (in_force, on_trial):
        assert "--no-fallback" in each["args"]
        assert option(each, "--model") == "{{args.tier}}"
    wake_s = float(option(in_force, "--wake"))  # a node, its image and a model's load
    assert 1200 <= wake_s <= job["activeDeadlineSeconds"] / 2


def test_a_tier_that_may_be_scaled_to_none_is_woken_by_those_who_count_what_it_misses() -> None:
    docs = rendered("production")
    none = {
        doc["metadata"]["name"]
        for doc in of_kind(docs, "ScaledObject")
        if doc["spec"]["minReplicaCount"] == 0
    }
    (monitor,) = [doc for doc in of_kind(docs, "PodMonitor") if doc["metadata"]["name"] == "gateway"]
    counted = monitor["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"]
    woken = {
        given["tier"]: given["in-force"]
        for doc, given in judged_rollouts()
        if doc["metadata"]["name"] in none
    }
    assert woken == {"large": f"http://{counted}:8090"}


def test_the_golden_set_is_judged_by_figures_that_an_evaluation_has() -> None:
    _, _, trial = golden_set()
    limits = [word.partition("=")[0] for word in trial["args"] if re.fullmatch(r"\w+=[\d.]+", word)]
    assert {"num_errors", "ttft_ms_p95", "answer_in_answer"} <= set(limits)
    found = Found(document="gate.md", is_right=True, holds=True)
    row = Row(
        phase=ALL, question="What?", documents=["gate.md"], answers=["a gate"], is_answerable=True, in_answer=True,
        answer="A gate [1].", passages=[found], cited=[found], latency_ms=2.0, ttft_ms=1.0,
    )  # fmt: skip
    assert set(limits) <= {metric.name for metric in metrics([row], 1.0)}
