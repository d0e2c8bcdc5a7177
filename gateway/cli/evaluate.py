"""`tidegate eval`: how good the answers are, on labelled questions, through the whole service."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terminal import (
    CommandFailed,
    ExitCode,
    JsonOption,
    KeyOption,
    PlainProgress,
    UrlOption,
    VarOption,
    console,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.cli.client import Target
    from gateway.cli.eval_labels import LabelledSet
    from gateway.cli.eval_report import Result
    from gateway.cli.eval_run import Options, Tell
    from gateway.cli.eval_score import Row

_EPILOG = """\b
Examples:
  tidegate eval questions.json                             every metric, with what it is
  tidegate eval questions.json -m deep --out deep.json     and keep the result
  tidegate eval questions.json --compare deep.json         measure, and compare with a kept result
  tidegate eval deep.json --compare fast.json              compare two results; asks nothing
  tidegate eval new.json --compare old.json --max-loss answer_in_answer=0.03
  tidegate eval questions.json --fail-under recall_at_1=0.95 --fail-over refused=0.08
  tidegate eval questions.json -m large --no-fallback --wake 1800   of a tier that may be scaled to none

\b
FILE is JSON: {"documents": [{"id": "a", "text": "…"} or {"id": "b", "path": "b.md"}],
               "questions": [{"question": "…?", "document": "a", "answers": ["…"]}]}
or in SQuAD's format. A question without answers has none in the documents, and must be refused.

\b
Formulas, over answerable questions with all documents there:
  recall_at_k         a right document is among the first k passages
  evidence_at_k       one of the first k passages is of a right document and holds a label
  answer_in_first     a label stands in the first sentence    answer_in_answer   in the whole answer
  citation_precision  citations of a right document / all     citation_evidence  … whose passage holds a label
  refused             refused although there is an answer
and: abstained, refused of the questions without an answer. With --leave-out a second phase asks again after a
part of the documents has gone, --draws times: abstained_left_out (theirs), refused_kept (the others).
Latencies are the client's, nearest-rank percentiles; ttft counts to the first text.
A label stands in a text whatever its case and white space. A question that failed counts as not found, not
answered and not refused.

\b
Exit codes: 0 done, 1 a limit is broken, a question failed, or with --no-fallback another tier answered, 2 wrong usage,
3 no service answers, 130 stopped by Ctrl-C. Collections and files of a run are deleted in all cases."""

LEAVE_OUT = 0.5  # of a set without unanswerable questions


def register(app: typer.Typer) -> None:
    app.command("eval", epilog=_EPILOG)(evaluate)


def evaluate(
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Labelled questions, or the result of an earlier run.")
    ],
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="auto, fast, deep, or a generative tier.")
    ] = "auto",
    concurrency: Annotated[int, typer.Option(metavar="N", help="Questions in flight.", min=1, max=512)] = 1,
    leave_out: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Ask again with this share of the documents left out; 0 = do not (default: 0.5 for a file "
            "whose questions all have an answer, else 0).",
            min=0.0,
            max=0.95,
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(metavar="N", help="How often --leave-out draws and asks again.", min=1, max=20)
    ] = 3,
    seed: Annotated[int, typer.Option(metavar="N", help="What --leave-out and --limit draw by.")] = 0,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Ask only N questions, drawn at random.", min=1)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Keep the result here, as JSON.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show the change from this earlier result.")
    ] = None,
    fail_under: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="Exit 1 below it; repeatable.")
    ] = None,
    fail_over: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=VALUE", help="Exit 1 above it; repeatable.")
    ] = None,
    max_loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="With --compare: exit 1 when the metric is worse than before by more; repeatable.",
        ),
    ] = None,
    no_fallback: Annotated[
        bool, typer.Option("--no-fallback", help="Exit 1 when another tier than --model answered a question.")
    ] = False,
    wake: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="Before the first question that counts, ask until the tier --model answers itself; exit 1 after "
            "so long.",
            min=0.0,
        ),
    ] = 0.0,
    show_failures: Annotated[
        int, typer.Option(metavar="N", help="Print the first N questions that went wrong.", min=0)
    ] = 0,
    keep: Annotated[bool, typer.Option("--keep", help="Leave collections and files in the service.")] = False,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """Measure answers on labelled questions."""
    from gateway.cli import eval_report as report
    from gateway.cli.client import resolve_target
    from gateway.cli.eval_labels import parse, read_json
    from gateway.cli.eval_run import Options
    from gateway.cli.eval_score import metrics

    floors = report.limits(fail_under or (), "--fail-under")
    ceilings = report.limits(fail_over or (), "--fail-over")
    margins = report.limits(max_loss or (), "--max-loss")
    if margins and compare is None:
        raise CommandFailed("--max-loss needs --compare: an earlier result to lose against.", ExitCode.USAGE)
    before = report.to_result(read_json(compare), compare) if compare else None
    raw = read_json(file)
    result = report.to_result(raw, file) if report.is_result(raw) else None
    if (no_fallback or wake) and (result.options["model"] if result else model) == "auto":
        raise CommandFailed(
            "--no-fallback and --wake need a tier that is to answer: --model.", ExitCode.USAGE
        )
    if result is None:
        labelled = parse(raw, file)
        share = leave_out if leave_out is not None else 0.0 if labelled.has_unanswerable else LEAVE_OUT
        options = Options(
            model=model, concurrency=concurrency, leave_out=share, draws=draws, seed=seed, limit=limit
        )
        target = resolve_target(settings_of(var), url, key)
        result = asyncio.run(_measure(target, labelled, options, keep=keep, wake_s=wake))
    if out:
        report.write(result, out)
    found = metrics(result.rows, result.took_s)
    if as_json:
        typer.echo(report.encoded(result))
    else:
        report.show(result, found)
        if before:
            report.compare(before, result)
        report.failures(result.rows, show_failures)
    broken = report.broken(found, floors, ceilings)
    if before:
        broken += report.lost(before, result, margins)
    if no_fallback:
        broken += report.strangers(result)
    _judge(broken, result.rows)


def _judge(broken: list[str], rows: list[Row]) -> None:
    """Raises: CommandFailed when a limit is broken or a question failed."""
    failed = [row.error for row in rows if row.error]
    if failed:
        broken = [
            *broken,
            f"{len(failed)} of {len(rows)} questions failed, the first: {failed[0].rstrip('.')}",
        ]
    if broken:
        raise CommandFailed("; ".join(broken) + ".")


async def _measure(
    target: Target, labelled: LabelledSet, options: Options, *, keep: bool, wake_s: float
) -> Result:
    from gateway.cli.client import Api
    from gateway.cli.eval_report import environment, result_of
    from gateway.cli.eval_run import measure

    async with Api(target) as api:
        health = await api.get("/health/ready")
        about = environment(str(health.get("version", "")) if isinstance(health, dict) else "")
        with _progress() as tell:
            rows, took_s = await measure(api, labelled, options, tell, keep=keep, wake_s=wake_s)
    return result_of(labelled, options, about, rows, took_s)


@contextmanager
def _progress() -> Iterator[Tell]:
    """One bar on a terminal, a plain line now and then elsewhere. On standard error either way."""
    err = console(stderr=True)
    if not err.is_terminal:
        plain = PlainProgress()
        yield lambda what, done, total: plain.tell(f"{what}: {done} of {total}.")
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total)
