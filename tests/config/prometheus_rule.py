"""`python -m tests.config.prometheus_rule`: writes the rules as the object that Prometheus's operator reads."""

from __future__ import annotations

import yaml

from tests.config import monitoring

HEAD = "# Made from rules/ by `python -m tests.config.prometheus_rule`; a test holds the two together.\n"


def main() -> None:
    groups = [
        group for path in monitoring.RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    ]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tidegate", "labels": {"app.kubernetes.io/name": "tidegate"}},
        "spec": {"groups": groups},
    }
    text = yaml.safe_dump(rule, sort_keys=False, width=120, allow_unicode=True)
    (monitoring.COMPONENT / "prometheus-rule.yaml").write_text(HEAD + text, "utf-8")


if __name__ == "__main__":
    main()
