"""Reads the monitoring component: its rules, its dashboards, and which metrics they ask for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
COMPONENT = ROOT / "k8s" / "components" / "monitoring"
RULES = sorted((COMPONENT / "rules").glob("*.yaml"))
CASES = sorted((ROOT / "tests" / "config" / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((COMPONENT / "dashboards").glob("*.json"))
ALERTMANAGER = COMPONENT / "alertmanager" / "alertmanager.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks"
FOREIGN = ROOT / "tests" / "config" / "foreign_metrics.txt"

_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}
_NOT_METRICS = re.compile(
    r"""\{[^}]*\} | "[^"]*" | \[[^\]]*\] | \b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)""",
    re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w:.])[a-zA-Z_:][\w:]*(?!\s*\()(?![\w:])")


def rules() -> list[tuple[dict[str, Any], str]]:
    """Each rule with its file's name."""
    return [
        (rule, path.name)
        for path in RULES
        for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        for rule in group["rules"]
    ]


def alerts() -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule, _ in rules() if "alert" in rule}


def rule_names(*, beside: str = "") -> set[str]:
    """Alerts and records by name, but those of one file."""
    return {rule.get("alert") or rule["record"] for rule, file in rules() if file != beside}


def metrics_of(expression: str) -> set[str]:
    """The series that a query selects by name."""
    bare = _NOT_METRICS.sub(" ", expression)
    return {name for name in _NAME.findall(bare) if name not in _WORDS}


def expressions(dashboard: Path) -> list[str]:
    """Every query of a dashboard as Prometheus would get it."""
    found: list[str] = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(node.get("expr"), str):
                found.append(node["expr"])
            for value in node.values():
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    look(json.loads(dashboard.read_text("utf-8")))
    return [with_variables(expression) for expression in found]


def with_variables(expression: str) -> str:
    """Grafana's variables in the form of what they become."""
    text = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
    return re.sub(r"\$\{?(?:price_\w+)\}?", "1", re.sub(r"\$\{?namespace\}?", ".*", text))


def foreign() -> set[str]:
    """Metrics of Triton, Envoy and the cluster's own exporters."""
    lines = FOREIGN.read_text("utf-8").splitlines()
    return {line.strip() for line in lines if line.strip() and not line.startswith("#")}


def labels_asked(query: str) -> list[tuple[str, set[str]]]:
    """Each of our series that a query selects, with the labels that it selects by."""
    found = re.findall(r"\b((?:tidegate|gen_ai)_\w+)\s*\{([^}]*)\}", query)
    return [(name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", labels))) for name, labels in found]


def labels_of(name: str) -> set[str]:
    """Those that a worker's series of that name has, and those that Prometheus gives to every one it reads."""
    for family in Metrics().registry._collector_to_names:
        own = getattr(family, "_name", None)
        if own is not None and name.removeprefix(own) in {"", "_total", "_bucket", "_count", "_sum"}:
            return {*family._labelnames, "le", "job", "instance", "namespace", "pod"}
    raise AssertionError(f"no worker tells {name}")


def families() -> dict[str, set[str]]:
    """Every metric of a gateway worker with its series' names, whether it has been counted yet or not."""
    kinds = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}
    return {
        family.name: {family.name + suffix for suffix in kinds[family.type]}
        for family in Metrics().registry.collect()
    }


def exported() -> set[str]:
    return set[str]().union(*families().values())
