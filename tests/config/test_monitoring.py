"""Rules, alerts, routes, runbooks and dashboards, held by Prometheus's and Alertmanager's own tools."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from gateway import errors
from gateway.api.alerts import ACTIONS
from gateway.supervise import watching
from gateway.supervise.part_orders import PARTS
from gateway.tiering.ladder import STEPS
from tests.config import monitoring as m

HEARTBEAT = "TidegateHeartbeat"  # fires for ever, so it has no case


def run(tool: str, *arguments: str) -> str:
    """Skips where Debian's packages are not installed."""
    binary = shutil.which(tool)
    if binary is None:
        pytest.skip(f"{tool} is not installed (Debian: prometheus, prometheus-alertmanager)")
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_valid() -> None:
    run("promtool", "check", "rules", *map(str, m.RULES))


@pytest.mark.parametrize("path", m.CASES, ids=lambda path: path.stem)
def test_every_alert_is_silent_fires_and_clears(path: Path) -> None:
    run("promtool", "test", "rules", str(path))


def test_every_alert_has_a_case_that_is_silent_fires_and_clears() -> None:
    seen: dict[str, str] = {}
    for path in m.CASES:
        for case in yaml.safe_load(path.read_text("utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                name = check["alertname"]
                seen[name] = seen.get(name, "") + ("+" if check.get("exp_alerts") else "-")
    assert {name for name, order in seen.items() if order == "-+-"} == set(m.alerts()) - {HEARTBEAT}


def test_every_alert_says_how_bad_it_is_and_has_a_runbook() -> None:
    for name, alert in m.alerts().items():
        assert alert["labels"]["severity"] in {"page", "ticket", "heartbeat"}, name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"
        assert alert["annotations"]["summary"]
    assert {path.stem for path in m.RUNBOOKS.glob("*.md")} - {"README"} == set(m.alerts())


@pytest.mark.parametrize("name", sorted(m.alerts()))
def test_a_runbook_says_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    text = (m.RUNBOOKS / f"{name}.md").read_text("utf-8")
    assert text.startswith(f"# {name}\n")
    for head in ("## What it means", "## Look", "## Do"):
        assert re.search(rf"^{head}\n\n\S", text, re.MULTILINE), head


def test_actions_are_ones_that_the_gateway_knows() -> None:
    for name, alert in m.alerts().items():
        labels = alert["labels"]
        match labels.get("action"):
            case None:
                continue
            case "shed":
                assert labels["step"] in STEPS, name
            case action:
                assert action in ACTIONS, name
                assert labels["part"] in PARTS, name
                if labels["part"] != "ingest":  # one of several: the alert must say which
                    assert "instance" in alert["expr"] or "by" not in alert["expr"], name


def codes(kind: type[errors.TidegateError]) -> set[str]:
    return {kind.code}.union(*(codes(each) for each in kind.__subclasses__()))


def test_the_promise_counts_every_refusal_for_lack_of_room() -> None:
    (counted,) = {
        causes
        for rule, file in m.rules()
        if file == "slo.yaml"
        for causes in re.findall(r'cause=~"([^"]+)"', rule["expr"])
    }
    wanted = codes(errors.AdmissionError) - codes(errors.RateLimited)
    assert wanted <= set(counted.split("|"))


def test_rules_ask_for_metrics_that_somebody_exports() -> None:
    known = m.exported() | m.foreign() | {rule["record"] for rule, _ in m.rules() if "record" in rule}
    asked = {name for rule, _ in m.rules() for name in m.metrics_of(rule["expr"])}
    assert asked - known == set()


def test_queries_select_by_labels_that_the_workers_metrics_have() -> None:
    queries = [rule["expr"] for rule, _ in m.rules()]
    queries += [query for path in m.DASHBOARDS for query in m.expressions(path)]
    asked = [each for query in queries for each in m.labels_asked(query) if each[0] not in m.foreign()]
    assert len(asked) > 80
    assert [(name, labels - m.labels_of(name)) for name, labels in asked if labels - m.labels_of(name)] == []


@pytest.mark.parametrize("path", m.DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboards_queries_are_valid_and_ask_for_what_is_there(path: Path, tmp_path: Path) -> None:
    queries = m.expressions(path)
    assert queries
    known = m.exported() | m.foreign() | {rule["record"] for rule, _ in m.rules() if "record" in rule}
    assert {name for query in queries for name in m.metrics_of(query)} - known == set()
    rows = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(json.dumps({"groups": [{"name": path.stem, "rules": rows}]}))
    run("promtool", "check", "rules", str(file))


def test_every_metric_of_a_worker_is_on_a_dashboard_or_in_a_rule() -> None:
    """Or told by another one: those of the conventions show the same times."""
    told_elsewhere = {"tidegate_request_duration_seconds"}
    queries = [rule["expr"] for rule, _ in m.rules()]
    queries += [query for path in m.DASHBOARDS for query in m.expressions(path)]
    asked = {name for query in queries for name in m.metrics_of(query)}
    assert {name for name, series in m.families().items() if not series & asked} == told_elsewhere


def test_dashboards_have_their_own_ids_and_a_datasource_to_choose() -> None:
    boards = [json.loads(path.read_text("utf-8")) for path in m.DASHBOARDS]
    names = {"overview", "tiers", "cache", "retrieval", "tenants", "triton"}
    assert {path.stem for path in m.DASHBOARDS} == names
    assert {board["uid"] for board in boards} == {f"tidegate-{name}" for name in names}
    for board in boards:
        assert board["id"] is None
        assert "__inputs" not in board
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        for panel in board["panels"]:
            assert panel["title"]
            assert panel.get("datasource", {}).get("uid") == "${datasource}"
            assert panel["fieldConfig"]["defaults"].get("unit")


def test_the_routes_are_valid() -> None:
    run("amtool", "check-config", str(m.ALERTMANAGER))


@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        (("severity=page",), "pager"),
        (("severity=ticket",), "people"),
        (("severity=heartbeat",), "heartbeat"),
        (("severity=page", "action=shed", "step=smaller_tier"), "gateway,pager"),
        (("severity=ticket", "action=drain", "part=triton"), "gateway,people"),
        (("severity=ticket", "action=dance"), "people"),
        ((), "people"),
    ],
    ids=["page", "ticket", "heartbeat", "shed", "drain", "unknown-action", "nothing-known"],
)
def test_alerts_reach(labels: tuple[str, ...], receivers: str) -> None:
    out = run(
        "amtool",
        "config",
        "routes",
        "test",
        f"--config.file={m.ALERTMANAGER}",
        f"--verify.receivers={receivers}",
        *labels,
    )
    assert out.splitlines()[0] == receivers


@pytest.mark.parametrize("name", sorted(m.alerts()))
def test_every_alerts_own_labels_lead_to_its_receivers(name: str) -> None:
    labels = m.alerts()[name]["labels"]
    people = {"page": "pager", "ticket": "people", "heartbeat": "heartbeat"}[labels["severity"]]
    wanted = f"gateway,{people}" if "action" in labels else people
    flags = [f"{key}={value}" for key, value in {"alertname": name, **labels}.items()]
    run(
        "amtool",
        "config",
        "routes",
        "test",
        f"--config.file={m.ALERTMANAGER}",
        f"--verify.receivers={wanted}",
        *flags,
    )


def test_what_one_machine_puts_in_another_place_is_there() -> None:
    text = m.ALERTMANAGER.read_text("utf-8")
    assert text.count(watching.CLUSTER_URL) == 1
    assert text.count(watching.CLUSTER_KEY_FILE) == 1
    assert (m.COMPONENT / "rules" / watching.CLUSTER_RULES).is_file()


def test_the_clusters_rule_object_holds_the_same_rules() -> None:
    """Made by `python -m tests.config.prometheus_rule`."""
    kept = yaml.safe_load((m.COMPONENT / "prometheus-rule.yaml").read_text("utf-8"))
    groups = [group for path in m.RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    assert kept["spec"]["groups"] == groups
