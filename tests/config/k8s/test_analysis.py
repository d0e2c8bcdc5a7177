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
from tests.config.k8s.manifests import of_kind, rendered

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


def counting(name: str, labels: dict[str, str], per_minute: float) -> dict[str, str]:
    text = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {"series": f"{name}{{{text}}}", "values": f"0+{per_minute / 4:g}x{TRIAL_S // 15 + 40}"}


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


def value(name: str, series: list[dict[str, str]], folder: Path) -> float | None:
    """What Prometheus says to the query at the end of the trial; None = nothing."""
    assert PROMTOOL is not None
    (folder / "rules.yaml").write_text(
        json.dumps({"groups": [{"name": "x", "rules": [{"record": "judged", "expr": queries()[name]}]}]})
    )
    case = {
        "interval": "15s",
        "input_series": series,
        "promql_expr_test": [{"expr": "judged", "eval_time": f"{TRIAL_S}s", "exp_samples": []}],
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


def verdict(name: str, series: list[dict[str, str]], folder: Path) -> str:
    """good, bad, or nothing: as the controller reads the conditions."""
    got, metric = value(name, series, folder), templates()[name]
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
    assert set(asked) == {"errors-of-version", "first-text-of-version"}
    for query in asked.values():
        for metric, selector in re.findall(r"(tidegate_\w+?)(?:_total|_bucket|_count)?\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)[=!]", selector))
            assert "version" in names[metric]
            assert labels <= names[metric]
            assert "side" in labels


def test_the_golden_set_is_judged_by_figures_that_an_evaluation_has() -> None:
    spec = templates()["answer-quality"]["provider"]["job"]["spec"]["template"]["spec"]
    (trial,) = (each for each in spec["containers"] if each["name"] == "on-trial")
    limits = [word.partition("=")[0] for word in trial["args"] if re.fullmatch(r"\w+=[\d.]+", word)]
    assert {"num_errors", "ttft_ms_p95", "answer_in_answer"} <= set(limits)
    found = Found(document="gate.md", is_right=True, holds=True)
    row = Row(
        phase=ALL, question="What?", documents=["gate.md"], answers=["a gate"], is_answerable=True, in_answer=True,
        answer="A gate [1].", passages=[found], cited=[found], latency_ms=2.0, ttft_ms=1.0,
    )  # fmt: skip
    assert set(limits) <= {metric.name for metric in metrics([row], 1.0)}
