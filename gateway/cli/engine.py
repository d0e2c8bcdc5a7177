"""`tidegate engine`: checkpoints and engine files for GPUs, made and checked; the older flow's model repository."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.terminal import CommandFailed, ExitCode, JsonOption, print_json, print_table

if TYPE_CHECKING:
    from gateway.checkpoint.engine_build import BuildWish, Tools
    from gateway.checkpoint.engine_check import Built
    from gateway.checkpoint.gpu_machine import Machine
    from gateway.checkpoint.gpu_memory import Fit
    from gateway.tier_config import GenerateTier

_BUILD_EPILOG = """\b
Examples:
  tidegate engine build /models/llama-70b --output /models/llama-70b-fp8 --quantise fp8 --calibration /data/texts
  tidegate engine build /models/llama-8b --kind engine --output /engines/llama-8b --tensor-parallel 2 --dry-run"""

_CHECK_EPILOG = """\b
Examples:
  tidegate engine check /models/llama-70b-fp8 --tensor-parallel 2
  tidegate engine check /engines/llama-8b"""

SmiOption = Annotated[
    str, typer.Option("--nvidia-smi", metavar="PROGRAM", help="The driver's tool that lists the GPUs.")
]
TensorOption = Annotated[
    int, typer.Option("--tensor-parallel", metavar="N", min=1, help="GPUs that share each layer.")
]
PipelineOption = Annotated[
    int, typer.Option("--pipeline-parallel", metavar="N", min=1, help="GPUs that share the layers out.")
]
ContextOption = Annotated[
    int, typer.Option("--context", metavar="TOKENS", min=64, help="Prompt and answer together.")
]
BatchOption = Annotated[
    int, typer.Option("--max-batch", metavar="N", min=1, help="Requests at once: the tier's slots.")
]
TokensOption = Annotated[
    int, typer.Option("--max-tokens", metavar="N", min=64, help="Tokens that one step works on.")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(
        name="engine",
        help="Checkpoints and engine files for GPUs: build, check, render.",
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    group.command(epilog=_BUILD_EPILOG)(build)
    group.command(epilog=_CHECK_EPILOG)(check)
    group.command("render-ensemble")(render_ensemble)
    app.add_typer(group)


def build(  # noqa: PLR0917  they are options, given by name
    checkpoint: Annotated[Path, typer.Argument(metavar="FOLDER", help="The checkpoint (Hugging Face form).")],
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="Where the result goes; must not be there yet.")
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="`checkpoint`: quantised, for tensorrt_llm and vllm; `engine`: files for the older backend.",
        ),
    ] = "checkpoint",
    quantise: Annotated[
        str, typer.Option("--quantise", metavar="FORMAT", help="none, fp8, nvfp4 or int4_awq.")
    ] = "none",
    kv_cache: Annotated[
        str, typer.Option("--kv-cache", help="auto or fp8: how keys and values are kept.")
    ] = "auto",
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", metavar="FOLDER", help="Data set that the quantisation measures on."),
    ] = None,
    tensor_parallel: TensorOption = 1,
    pipeline_parallel: PipelineOption = 1,
    max_batch: BatchOption = 64,
    max_tokens: TokensOption = 8192,
    context_tokens: ContextOption = 8192,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run; needs neither GPU nor library.")
    ] = False,
    nvidia_smi: SmiOption = "nvidia-smi",
) -> None:
    """Make a checkpoint ready for GPUs with the programs of NVIDIA's image."""
    from gateway.checkpoint.engine_build import QUANTISATIONS, BuildWish, check_wish, find_tools, run
    from gateway.checkpoint.errors import CheckpointError
    from gateway.checkpoint.gpu_machine import read_machine
    from gateway.checkpoint.inspection import inspect

    _one_of("--kind", kind, ("checkpoint", "engine"))
    _one_of("--quantise", quantise, QUANTISATIONS)
    _one_of("--kv-cache", kv_cache, ("auto", "fp8"))
    try:
        choices: dict[str, Any] = {"kind": kind, "kv_cache": kv_cache}
        wish = BuildWish(
            **choices,
            checkpoint=inspect(checkpoint, is_for_gpu=True),
            output=output,
            quantisation=quantise,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            max_batch=max_batch,
            max_tokens=max_tokens,
            context_tokens=context_tokens,
            calibration=calibration,
        )
        tools = find_tools()
        if dry_run:
            check_wish(wish)
            _show_plan(wish, tools)
            return
        made = run(wish, read_machine(nvidia_smi), tools, print)
    except CheckpointError as error:
        raise CommandFailed(f"{error}.") from error
    print(f"Built {output}: {_told(made)}")


def _show_plan(wish: BuildWish, tools: Tools) -> None:
    from gateway.checkpoint.engine_build import plan

    for step in plan(wish, tools, wish.output.with_name(f".build-{wish.output.name}")):
        print(f"# {step.says}\n{shlex.join(step.argv)}")


def check(  # noqa: PLR0917  they are options, given by name
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A checkpoint, or what `engine build` has made.")
    ],
    engine: Annotated[str, typer.Option("--engine", help="tensorrt_llm or vllm.")] = "tensorrt_llm",
    tensor_parallel: TensorOption = 1,
    pipeline_parallel: PipelineOption = 1,
    max_batch: BatchOption = 64,
    max_tokens: TokensOption = 8192,
    context_tokens: ContextOption = 8192,
    kv_cache: Annotated[str, typer.Option("--kv-cache", help="auto or fp8.")] = "auto",
    gpu_memory: Annotated[
        float, typer.Option("--gpu-memory", metavar="0..1", help="Share of a GPU's memory for the engine.")
    ] = 0.9,
    as_json: JsonOption = False,
    nvidia_smi: SmiOption = "nvidia-smi",
) -> None:
    """Say whether this machine can run it, and how the memory of a GPU is used."""
    from gateway.checkpoint.engine_check import check_built, check_gpu_tier, read_built
    from gateway.checkpoint.errors import CheckpointError
    from gateway.checkpoint.gpu_machine import read_machine
    from gateway.checkpoint.inspection import inspect
    from gateway.tier_config import GenerateTier

    _one_of("--engine", engine, ("tensorrt_llm", "vllm"))
    _one_of("--kv-cache", kv_cache, ("auto", "fp8"))
    if not 0 < gpu_memory < 1:
        raise CommandFailed(f"--gpu-memory: {gpu_memory:g} is not between 0 and 1.", ExitCode.USAGE)
    machine = read_machine(nvidia_smi)
    try:
        built = read_built(folder)
        if built is not None and built.kind == "engine":
            check_built(folder, built, machine)
            _show_engine(folder, built, machine, as_json=as_json)
            return
        choices: dict[str, Any] = {"engine": engine, "kv_cache": kv_cache}
        tier = GenerateTier(
            **choices,
            checkpoint=str(folder),
            slots=max_batch,
            batch_tokens=max_tokens,
            context_tokens=context_tokens,
            tensor_parallel=tensor_parallel,
            pipeline_parallel=pipeline_parallel,
            gpu_memory=gpu_memory,
        )
        found = check_gpu_tier(inspect(folder, is_for_gpu=True), tier, machine)
    except CheckpointError as error:
        raise CommandFailed(f"{error}.") from error
    if not as_json:
        print(f"{folder} runs here on {engine} {machine.versions[engine]}, {machine.gpus[0].name}.")
    _show_memory(found, tier, as_json=as_json)


def _show_memory(found: Fit, tier: GenerateTier, *, as_json: bool) -> None:
    from gateway.checkpoint.gpu_memory import GIB, full_slots

    slots = full_slots(found, tier.context_tokens)
    if as_json:
        print_json(
            {
                "weight_bytes": found.weight_bytes,
                "activation_bytes": found.activation_bytes,
                "cache_bytes": found.cache_bytes,
                "cache_tokens": found.cache_tokens,
                "full_slots": slots,
            }
        )
        return
    rows = [
        ("weights", f"{found.weight_bytes / GIB:,.1f} GiB", "on each GPU"),
        ("a step", f"{found.activation_bytes / GIB:,.1f} GiB", f"{tier.batch_tokens} tokens"),
        ("cache", f"{found.cache_bytes / GIB:,.1f} GiB", f"{found.cache_tokens:,} tokens over all requests"),
        ("full slots", f"{slots:,}", f"of {tier.context_tokens} tokens each; {tier.slots} are asked for"),
    ]
    print_table(("", "", ""), rows, right=("",))


def _show_engine(folder: Path, built: Built, machine: Machine, *, as_json: bool) -> None:
    if as_json:
        from msgspec import to_builtins

        print_json(to_builtins(built))
        return
    print(f"{folder} runs here on {machine.gpus[0].name}: {_told(built)}")


def _told(built: Built) -> str:
    return (
        f"{built.kind}, {built.quantisation}, by TensorRT-LLM {built.library_version}, for {built.num_gpus} GPU(s) of "
        f"compute capability {built.architecture / 10:.1f}, {built.max_batch} requests of {built.context_tokens} "
        "tokens."
    )


def render_ensemble(
    engine_dir: Annotated[
        Path,
        typer.Option("--engine-dir", metavar="FOLDER", help="What `engine build --kind engine` has made."),
    ],
    output: Annotated[
        Path, typer.Option("--output", metavar="FOLDER", help="The model repository to write.")
    ],
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            metavar="N",
            min=0,
            help="Requests that the executor takes beyond its batch; 0 = no bound.",
        ),
    ] = 0,
    gpu_memory: Annotated[
        float,
        typer.Option("--gpu-memory", metavar="0..1", help="Share of what the weights leave, for the cache."),
    ] = 0.9,
) -> None:
    """Write the model repository of TensorRT-LLM's older C++ backend: preprocess, tensorrt_llm, postprocess."""
    from gateway.checkpoint.engine_check import read_built
    from gateway.checkpoint.errors import CheckpointError
    from gateway.checkpoint.trtllm_ensemble import EnsembleWish, write_repository
    from gateway.supervise.assets import find_assets

    try:
        built = read_built(engine_dir)
        if built is None or built.kind != "engine":
            raise CheckpointError(
                f"{engine_dir} holds no engine files of ours",
                "make them with `tidegate engine build --kind engine`",
            )
        wish = EnsembleWish(
            engine_dir=engine_dir.absolute(), max_batch=built.max_batch, queue=queue, gpu_memory=gpu_memory
        )
        models = find_assets().root / "model_repository" / "trtllm_ensemble"
        for path in write_repository(wish, models, output):
            print(path)
    except CheckpointError as error:
        raise CommandFailed(f"{error}.") from error


def _one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise CommandFailed(f"{option}: {value!r} is none of {', '.join(choices)}.", ExitCode.USAGE)
