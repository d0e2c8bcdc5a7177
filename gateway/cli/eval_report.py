"""Results of `tidegate eval`: the file that keeps them, the tables that show them, the limits they are held to."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from gateway import __version__
from gateway.cli.eval_labels import LabelledSet
from gateway.cli.eval_run import Options
from gateway.cli.eval_score import ALL, Change, Metric, Row, changes, common, metrics
from gateway.cli.terminal import CommandFailed, ExitCode, plural, print_table, printable

FORMAT = 1
_LIKELY = 0.05  # below this chance a difference is marked
_SMALLEST = 0.001  # chance that is shown


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One run. labels: name and digest of the labelled set. took_s: time of the first phase's questions."""

    format: int = FORMAT
    labels: dict[str, str]
    options: dict[str, Any]
    environment: dict[str, Any]
    took_s: float
    metrics: dict[str, float]
    rows: list[Row]


def is_result(raw: Mapping[str, Any]) -> bool:
    """Whether an object is a result and not a labelled file."""
    return "rows" in raw and "metrics" in raw


def to_result(raw: Mapping[str, Any], path: Path) -> Result:
    """Raises: CommandFailed (usage) for an object that is no result, or one of another format."""
    if is_result(raw) and raw.get("format") != FORMAT:
        raise CommandFailed(
            f"{path}: is a result of format {raw.get('format')!r}, this version reads {FORMAT}.",
            ExitCode.USAGE,
        )
    try:
        return msgspec.convert(raw, Result)
    except msgspec.ValidationError as error:
        raise CommandFailed(f"{path}: is not a result of `tidegate eval`: {error}.", ExitCode.USAGE) from None


def result_of(
    labelled: LabelledSet, options: Options, about: dict[str, Any], rows: list[Row], took_s: float
) -> Result:
    return Result(
        labels={"name": labelled.name, "sha256": labelled.sha256},
        options=msgspec.to_builtins(options),
        environment=about,
        took_s=round(took_s, 3),
        metrics={metric.name: round(metric.value, 4) for metric in metrics(rows, took_s)},
        rows=rows,
    )


def encoded(result: Result) -> str:
    return msgspec.json.format(msgspec.json.encode(result), indent=1).decode()


def write(result: Result, path: Path) -> None:
    """Raises: CommandFailed when the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(encoded(result) + "\n", "utf-8")
    except OSError as error:
        raise CommandFailed(f"{path}: cannot be written: {error.strerror or error}.") from None


def environment(service: str) -> dict[str, Any]:
    """What a run was made on. service: the version that the service says it has."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        "tidegate": __version__,
        "service": service,
        "python": sys.version.split()[0],
        "machine": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 1),
    }


def show(result: Result, found: Sequence[Metric]) -> None:
    """The table of a run, with what each number is taken over."""
    tiers = sorted({row.tier for row in result.rows if row.tier})
    asked = sum(row.phase == ALL for row in result.rows)
    print(f"{result.labels['name']}: {asked:,} questions; answered by {', '.join(tiers) or 'nobody'}.\n")
    print_table(
        ("metric", "value", "of", "what it is"),
        [(metric.name, _number(metric, metric.value), f"{metric.num:,}", metric.formula) for metric in found],
        right=("value", "of"),
    )


def _number(metric: Metric, value: float) -> str:
    return f"{value:.{metric.decimals}f}"


def compare(old: Result, new: Result) -> None:
    """The metrics of two runs side by side, over the questions that both asked."""
    if old.labels.get("sha256") != new.labels.get("sha256"):
        print("\nThe labelled sets differ.")
    before, after = common(old.rows, new.rows)
    is_part = len(before) < len(old.rows) or len(after) < len(new.rows)
    if is_part:
        print(f"\nCompared over the {plural(len(after), 'row')} that both have.")
    was = {metric.name: metric.value for metric in metrics(before, 0.0 if is_part else old.took_s)}
    went = changes(before, after)
    lines = [
        (metric.name, *_delta(metric, was.get(metric.name)), *_went(went.get(metric.name)))
        for metric in metrics(after, 0.0 if is_part else new.took_s)
    ]
    print()
    heads = ("metric", "old", "new", "change", "", "gained", "lost", "chance")
    print_table(heads, lines, right=("old", "new", "change", "gained", "lost", "chance"))
    print("\nchance: of so uneven a split if neither run were better (exact McNemar test); * below 0.05.")


def _delta(metric: Metric, old: float | None) -> tuple[str, str, str, str]:
    new = _number(metric, metric.value)
    if old is None:
        return "-", new, "", ""
    change = _number(metric, metric.value - old)
    if float(change) == 0:
        return _number(metric, old), new, "0", ""
    has_risen = metric.value > old
    verdict = "↑" if has_risen else "↓"
    if metric.is_better_high is not None:
        verdict += " better" if has_risen == metric.is_better_high else " worse"
    return _number(metric, old), new, ("+" if has_risen else "") + change, verdict


def _went(change: Change | None) -> tuple[str, str, str]:
    if change is None:
        return "", "", ""
    if not change.gained + change.lost:
        return "0", "0", ""
    mark = "*" if change.chance < _LIKELY else " "
    told = f"{change.chance:.3f}" if change.chance >= _SMALLEST else f"<{_SMALLEST}"
    return str(change.gained), str(change.lost), told + mark


def failures(rows: Iterable[Row], num: int) -> None:
    """The first `num` questions that went wrong, with what was wrong and what came."""
    wrong = [(row, text) for row in rows if (text := fault(row))]
    for row, text in wrong[:num]:
        where = "" if row.phase == ALL else f" [{row.phase}]"
        print(f"\n{printable(row.question)}{where}\n  {text}")
        if row.is_answerable:
            print(f"  wanted  {printable(' | '.join(row.answers))}  in {printable(', '.join(row.documents))}")
            ranks = [str(n) for n, passage in enumerate(row.passages, 1) if passage.is_right]
            print(f"  ranks   {', '.join(ranks) or 'none'} of {len(row.passages)}")
        print(f"  said    {printable(' '.join((row.error or row.answer).split()))[:500]}")
    if 0 < num < len(wrong):
        print(f"\n{len(wrong) - num:,} more in the result file.")


def fault(row: Row) -> str:
    """What is wrong with a row, the gravest first; empty when nothing is."""
    faults = (
        ("failed", bool(row.error)),
        ("answered, though there is no answer", not row.is_answerable and not row.refused),
        ("refused, though there is an answer", row.is_answerable and row.refused),
        ("no right document was found", row.is_answerable and not any(p.is_right for p in row.passages)),
        ("the answer does not hold a label", row.is_answerable and not row.in_answer),
        ("the first sentence does not hold a label", row.is_answerable and not row.in_first),
    )
    return next((text for text, is_so in faults if is_so), "")


def limits(texts: Iterable[str], option: str) -> dict[str, float]:
    """METRIC=VALUE texts. Raises: CommandFailed (usage) for a text of another shape."""
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not re.fullmatch(r"\d+(\.\d+)?|\.\d+", value.strip()):
            raise CommandFailed(f"{option} {text!r} is not METRIC=VALUE.", ExitCode.USAGE)
        found[name.strip()] = float(value)
    return found


def broken(found: Sequence[Metric], floors: Mapping[str, float], ceilings: Mapping[str, float]) -> list[str]:
    """A sentence for each limit that does not hold. A metric that this run does not have breaks its limit."""
    values = {metric.name: metric for metric in found}
    return [*_beyond(values, floors, "below", lambda value, limit: value < limit),
            *_beyond(values, ceilings, "above", lambda value, limit: value > limit)]  # fmt: skip


def lost(old: Result, new: Result, margins: Mapping[str, float]) -> list[str]:
    """A sentence for each metric that is worse than before by more than its margin, over the questions of both runs."""
    before, after = common(old.rows, new.rows)
    was = {metric.name: metric.value for metric in metrics(before, old.took_s)}
    now = {metric.name: metric for metric in metrics(after, new.took_s)}
    told = []
    for name, margin in margins.items():
        metric = now.get(name)
        if metric is None or name not in was or metric.is_better_high is None:
            told.append(f"{name} cannot be compared; these runs have {', '.join(was)}")
            continue
        loss = was[name] - metric.value if metric.is_better_high else metric.value - was[name]
        if loss > margin:
            told.append(f"{name} went from {_number(metric, was[name])} to {_number(metric, metric.value)}")
    return told


def strangers(result: Result) -> list[str]:
    """A sentence where another tier answered in the place of the one that was asked."""
    model, answered = result.options["model"], [row.tier for row in result.rows if not row.error]
    others = [tier for tier in answered if tier != model]
    if not others:
        return []
    names = ", ".join(sorted(set(others) - {""})) or "nobody"
    return [f"{len(others)} of {len(answered)} questions were answered by {names}, not by {model}"]


def _beyond(
    values: Mapping[str, Metric],
    limits: Mapping[str, float],
    word: str,
    is_beyond: Callable[[float, float], bool],
) -> list[str]:
    told = []
    for name, limit in limits.items():
        metric = values.get(name)
        if metric is None:
            told.append(f"{name} was not measured; this run has {', '.join(values)}")
        elif is_beyond(metric.value, limit):
            told.append(f"{name} is {_number(metric, metric.value)}, {word} {limit:g}")
    return told
