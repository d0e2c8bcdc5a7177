"""A load run as a page (Markdown): figures with their SLOs, offered load and formulas beside them."""

from __future__ import annotations

from typing import Any

from perf.load.figures import derive, verdicts
from perf.load.scenario import Scenario
from perf.load.summary import FORMULAS


def page(scenario: Scenario, arms: dict[str, dict[str, Any]], environment: dict[str, Any]) -> str:
    lines = [f"# {scenario.title}", "", scenario.what.strip(), ""]
    lines += [
        f"{environment.get('cores', '?')} cores that generator and servers share ({environment.get('cpu', '?')}), "
        f"{environment.get('date', '')}. SLO: {scenario.slo}.",
        *(f"SLO of {s.name}: {s.slo}." for s in scenario.sources if s.slo),
        "",
    ]
    if scenario.kind == "phases":
        lines += _rates(arms) + _times(arms)
    for name, arm in arms.items():
        lines += _arm(scenario, name, arm)
    lines += ["## Formulas", "", *(f"- **{name}**: {text}." for name, text in FORMULAS.items()), ""]
    return "\n".join(lines)


def _rates(arms: dict[str, dict[str, Any]]) -> list[str]:
    out = [
        "## Rates (requests/s)",
        "",
        "| arm | phase | offered | admitted | completed | goodput | of G | Jain |",
    ]
    out.append("| --- " * 8 + "|")
    for name, arm in arms.items():
        for phase, found in arm["figures"].get("phases", {}).items():
            kept = found.get("kept_of_peak")
            out.append(
                f"| {name} | {phase} | {found['offered']:.1f} | {found['admitted']:.1f} | "
                f"{found['completed']:.1f} | {found['goodput']:.1f} | "
                f"{'' if kept is None else f'{kept:.3f}'} | {found['jain']:.3f} |"
            )
    return [*out, ""]


def _times(arms: dict[str, dict[str, Any]]) -> list[str]:
    """By tier, priority, source and tenant; where there are many tenants, their source stands for them."""
    out = ["## Times (ms): p50 / p95 / p99", "", "| arm | phase | by | success | TTFT | ITL | TPOT |"]
    out.append("| --- " * 7 + "|")
    for name, arm in arms.items():
        for phase, found in arm["figures"].get("phases", {}).items():
            for group, members in found["by"].items():
                if group == "tenant" and len(members) > 4:
                    continue
                for member, each in members.items():
                    cells = (_cell(each[key]) for key in ("ttft_ms", "itl_ms", "tpot_ms"))
                    label = member if group == "all" else f"{group} {member}"
                    out.append(
                        f"| {name} | {phase} | {label} | {each['success']:.4f} | {' | '.join(cells)} |"
                    )
    return [*out, ""]


def _cell(found: dict[str, float]) -> str:
    return " / ".join(f"{found[q]:.0f}" for q in ("p50", "p95", "p99")) if found else "-"


def _arm(scenario: Scenario, name: str, arm: dict[str, Any]) -> list[str]:
    out = [f"## {name}", ""]
    if arm.get("missing"):
        return [*out, f"Left out: {arm['missing']}.", ""]
    if arm.get("peak"):
        probes = ", ".join(f"{offered:.1f} -> {good:.1f}" for offered, good in arm["probes"])
        out += [f"G = **{arm['peak']:.2f}/s**" + (f" (offered -> goodput: {probes})" if probes else ""), ""]
    if name == "tidegate" and scenario.targets:
        for figure, value, bar, is_met in verdicts(scenario.targets, derive(arm["figures"])):
            shown = "not measured" if value is None else f"{value:g}"
            out.append(f"- {figure}: **{shown}** (target {bar:g}, {'met' if is_met else 'missed'})")
        out.append("")
    generator = arm["figures"].get("generator")
    if generator:
        late = generator["lateness_ms"]
        note = " **The generator was late: its delay is in every TTFT.**" if generator["is_late"] else ""
        note += (
            f" **{generator['unsent']} requests were not sent: the run is void.**"
            if generator["unsent"]
            else ""
        )
        out += [
            f"Generator's lateness (ms): p50 {late.get('p50')}, p99 {late.get('p99')}, max {late.get('max')}.{note}",
            "",
        ]
    rest = {k: v for k, v in arm["figures"].items() if k not in {"phases", "generator"}}
    return [*out, *(f"- {key}: {value}" for key, value in rest.items()), ""]
