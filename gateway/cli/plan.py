"""`tidegate plan`: how many nodes and GPUs so many users need, from figures that were measured on one node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gateway.cli.terminal import CommandFailed, ExitCode, JsonOption, print_json, print_table

if TYPE_CHECKING:
    from gateway.cli.plan_sizing import Figures, Load, Need

FIGURES = Path("perf") / "results" / "capacity.json"
BUNDLED = "capacity.json"

_EPILOG = """\b
Examples:
  tidegate plan --users 100000
  tidegate plan --users 20000 --think 30 --answer-tokens 500 --gpu-tokens 2500
  tidegate plan --users 100000 --figures mine.json --json"""


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(plan)


def plan(  # noqa: PLR0917  they are options, given by name
    users: Annotated[int, typer.Option("--users", metavar="N", min=1, help="Users at the same time.")],
    think_s: Annotated[
        float, typer.Option("--think", metavar="SECONDS", help="From an answer to the next question.")
    ] = 60.0,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", metavar="N", help="Tokens of an answer.")
    ] = 300,
    tokens_per_s: Annotated[
        float, typer.Option("--pace", metavar="N", help="Tokens a second that a reader sees.")
    ] = 25.0,
    model_share: Annotated[
        float,
        typer.Option("--model-share", metavar="0..1", help="Questions that a language model answers."),
    ] = 1.0,
    gpu_tokens_per_s: Annotated[
        float,
        typer.Option(
            "--gpu-tokens",
            metavar="N",
            help="Output tokens/s of one GPU with your model, measured by you. Without it no GPUs are counted.",
        ),
    ] = 0.0,
    cores: Annotated[int, typer.Option("--cores", metavar="N", help="Cores of a node.")] = 16,
    memory_gib: Annotated[float, typer.Option("--memory", metavar="GIB", help="Memory of a node.")] = 64.0,
    utilisation: Annotated[
        float, typer.Option("--utilisation", metavar="0..1", help="Aimed at, at the busiest time.")
    ] = 0.6,
    spare: Annotated[
        int, typer.Option("--spare", metavar="N", min=0, help="Nodes of each kind to spare.")
    ] = 1,
    figures_file: Annotated[
        Path | None,
        typer.Option("--figures", metavar="FILE", help="Measured figures; default: the bundled ones."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Count the nodes and GPUs that so many users need."""
    from msgspec import to_builtins

    from gateway.cli.plan_sizing import Load, size

    figures = _figures(figures_file)
    load = Load(
        users=users,
        think_s=think_s,
        answer_tokens=answer_tokens,
        tokens_per_s=tokens_per_s,
        model_share=model_share,
        gpu_tokens_per_s=gpu_tokens_per_s,
        cores_per_node=cores,
        memory_gib_per_node=memory_gib,
        utilisation=utilisation,
        spare_nodes=spare,
    )
    try:
        need = size(figures, load)
    except ValueError as error:
        raise CommandFailed(f"That cannot be planned: {error}.", ExitCode.USAGE) from None
    if as_json:
        print_json({"need": to_builtins(need), "load": to_builtins(load), "figures": to_builtins(figures)})
        return
    _show(figures, load, need)


def _figures(path: Path | None) -> Figures:
    """Those of the file; by default a checkout's own, else what the package carries."""
    import msgspec

    from gateway.cli.plan_sizing import Figures
    from gateway.supervise.assets import package_parent

    bundled = package_parent() / "gateway" / "_assets" / BUNDLED
    source = path or (bundled if bundled.is_file() else package_parent() / FIGURES)
    try:
        return msgspec.json.decode(source.read_bytes(), type=Figures)
    except OSError as error:
        raise CommandFailed(f"{source} cannot be read: {error.strerror}.", ExitCode.USAGE) from None
    except msgspec.DecodeError as error:
        raise CommandFailed(f"{source} does not hold figures: {error}.", ExitCode.USAGE) from None


def _show(figures: Figures, load: Load, need: Need) -> None:
    gpus = "not counted: give --gpu-tokens" if need.gpus is None else f"{need.gpus:,}"
    print_table(
        ("result", "", "how"),
        (
            ("questions", f"{need.questions_per_s:,.1f}/s", "users / (think + answer time)"),
            ("open streams", f"{need.open_streams:,}", "questions/s x answer time"),
            ("output tokens", f"{need.tokens_per_s:,.0f}/s", "questions/s x answer tokens"),
            ("gateway cores", f"{need.gateway_cores:,.1f}", "busy, for relaying and deciding"),
            ("edge cores", f"{need.edge_cores:,.1f}", "busy, for Envoy"),
            ("retrieval cores", f"{need.retrieval_cores:,.1f}", "busy, for embedding, search, reranking"),
            ("stream memory", f"{need.stream_memory_gib:,.1f} GiB", "open streams x memory of one"),
            ("gateway workers", f"{need.gateway_workers:,}", "by cores and by open files"),
            ("gateway nodes", f"{need.gateway_nodes:,}", f"bound by {need.bound_by}; spare ones in it"),
            ("retrieval nodes", f"{need.retrieval_nodes:,}", "spare ones in it"),
            ("nodes without a GPU", f"{need.nodes:,}", "both kinds"),
            ("GPUs", gpus, "tokens/s x model share / a GPU's rate / utilisation"),
        ),
        right=("",),
    )
    print("\nAssumed")
    print_table(
        ("", "", ""),
        (
            ("think time", f"{load.think_s:g} s", "--think"),
            ("answer", f"{load.answer_tokens} tokens, {load.answer_s:.1f} s", "--answer-tokens, --pace"),
            ("model share", f"{load.model_share:g}", "--model-share"),
            ("node", f"{load.cores_per_node} cores, {load.memory_gib_per_node:g} GiB", "--cores, --memory"),
            ("utilisation", f"{load.utilisation:g}", "--utilisation"),
            ("spare nodes", f"{load.spare_nodes} of each kind", "--spare"),
            ("one GPU", f"{load.gpu_tokens_per_s:g} tokens/s", "--gpu-tokens"),
        ),
    )
    print(f"\nFigures of one node ({figures.measured_on})")
    names = [name for name in figures.__struct_fields__ if name not in {"measured_on", "notes"}]
    print_table(
        ("", "", ""), ((name, f"{getattr(figures, name):g}", figures.notes.get(name, "")) for name in names)
    )
