"""The results block of perf/README.md, from a kept summary: `python -m perf.report [FOLDER]`. No number is typed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
LATEST = Path(__file__).parent / "results" / "latest"
BEGIN, END = "<!-- results: written by perf/report.py -->", "<!-- end of results -->"


def block(summary: dict[str, Any]) -> str:
    """Markdown of every scenario that the summary has."""
    env = summary["environment"]
    machine = f"{env['cores']} cores ({env['cpu']}), Python {env['python']}"
    speed = (
        f", a million additions {env['loop_ms']} ms, a matrix product {env['matmul_ms']} ms"
        if "loop_ms" in env
        else ""
    )
    parts = [
        f"`perf/results/latest`: {machine}, {env['date']}, load before {float(env['load_before']):.1f}{speed}."
    ]
    if "added_latency" in summary:
        parts += [_added(summary["added_latency"]), _retrieve(summary["retrieve_rate"])]
    if "relay" in summary:
        parts += [_relay(summary["relay"]), _first(summary["relay"]), _paced(summary["relay"])]
    if "answers" in summary:
        parts.append(_answers(summary["answers"]))
    if "ingest_rate" in summary:
        parts.append(_ingest(summary))
    if "generate" in summary:
        parts.append(_generate(summary["generate"]))
    return "\n\n".join(parts)


def inserted(page: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The page with the text between its marks. Raises: ValueError without marks."""
    before, _, rest = page.partition(begin)
    _, mark, after = rest.partition(end)
    if not mark:
        raise ValueError(f"the page has no {begin} … {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *lines])


def _added(added: dict[str, Any]) -> str:
    lines = [(arm, f"{row['p50']:.1f}", f"{row['p99']:.1f}") for arm, row in added["latency_ms"].items()]
    lines += [
        (f"**{name}**", f"**{value:.1f}** (target 3)", "") for name, value in added["added_p50_ms"].items()
    ]
    return "**Added latency**, a trivial question, one at a time (ms)\n\n" + table(
        ("arm", "p50", "p99"), lines
    )


def _retrieve(rate: dict[str, Any]) -> str:
    per_s, share = rate["texts_per_s"], rate["share_of_batch_loop"]
    lines = []
    for arm, value in per_s.items():
        name, _, tokens = arm.partition("/")
        told = f"{share[arm]['median']:.2f} (target 0.80)" if arm in share else "floor"
        lines.append((f"about {tokens}", name, f"{value:.0f}", told))
    heads = ("tokens per text", "arm", "texts/s", "share")
    return "**`retrieve` at 32 clients** (median of rounds)\n\n" + table(heads, lines)


def _relay(relay: dict[str, Any]) -> str:
    profile = relay["processor_us_per_chunk"]
    lines = []
    for arm, value in relay["chunks_per_s"].items():
        spent = ", ".join(f"{part} {us:.0f}" for part, us in profile[arm].items() if us >= 5)
        lines.append((arm, f"{value:.0f}", spent))
    targets = {"service / bare": "target 0.7; ", "service / litellm": "target 15; "}
    shares = "; ".join(
        f"{name} = **{share['median']:.2f}** ({targets.get(name, '')}quartiles {share['q1']:.2f} to {share['q3']:.2f})"
        for name, share in relay["ratio"].items()
    )
    heads = ("arm", "chunks/s", "processor us per chunk")
    return f"**Token relay**, 32 streams of 64 chunks (median of rounds): {shares}\n\n" + table(heads, lines)


def _first(relay: dict[str, Any]) -> str:
    lines = [
        (arm, f"{row['p50']:.1f}", f"{row['p90']:.1f}", f"{row['p99']:.1f}")
        for arm, row in relay["first_chunk_ms"].items()
    ]
    added = ", ".join(f"{name} **{value:.1f}**" for name, value in relay["added_first_chunk_p50_ms"].items())
    told = f"p50s: {added}; retrieval itself is {relay['retrieval_p50_ms']:.1f} of it (target 3)"
    return f"**First chunk** at concurrency 1 (ms); {told}\n\n" + table(("arm", "p50", "p90", "p99"), lines)


def _paced(relay: dict[str, Any]) -> str:
    paced, profile = relay["paced"], relay["processor_us_per_chunk"]
    spent, steady = profile["paced"], profile["steady"]
    parts = ", ".join(f"{part} {us:.0f}" for part, us in spent.items())
    return (
        f"**{paced['streams']} streams at 20 tokens/s each**, coalesced as in service: "
        f"{paced['tokens_per_s']:.0f} tokens/s; "
        f"gateway **{spent.get('gateway', 0.0):.1f} us** a token over whole streams of 64 tokens, "
        f"**{steady.get('gateway', 0.0):.1f} us** between first and last token (target 15). All parts of whole streams "
        f"(us): {parts}."
    )


def _answers(answers: dict[str, Any]) -> str:
    targets = {"fast@1": 40, "deep@1": 150}
    lines = [
        (arm, f"{row['p50']:.1f} (target {targets[arm]})", f"{row['p99']:.1f}")
        for arm, row in answers["one_client_ms"].items()
    ]
    flood = f"{answers['flood_per_s']:.0f} answers/s (target 60)"
    lines.append((f"fast@32, {flood}", f"{answers['flood_p50_ms']:.1f}", f"{answers['flood_p99_ms']:.1f}"))
    return "**Whole answers** over the documentation (ms)\n\n" + table(("arm", "p50", "p99"), lines)


def _ingest(summary: dict[str, Any]) -> str:
    rate, latency, memory = (summary[f"ingest_{name}"] for name in ("rate", "latency", "memory"))
    per_s, share, ratio = rate["chunks_per_s"], rate["share_of_batch_loop"], latency["ratio"]
    lines = [
        (arm, f"{row['p50']:.1f}", f"{row['p95']:.1f}", f"{row['p99']:.1f}")
        for arm, row in latency["latency_ms"].items()
    ]
    resident = ", ".join(f"{at // 1000}k {mib:.0f}" for at, mib in memory["resident_mib"])
    return (
        f"**Ingest**: {per_s['ingest']:.0f} chunks/s beside {per_s['batch']:.0f} of the model's own batch loop = "
        f"**{share['median']:.2f}** (target 0.85; quartiles {share['q1']:.2f} to {share['q3']:.2f}). A question "
        f"meanwhile, p95 **{ratio['p95']:.2f}** x idle (target 1.5), p50 {ratio['p50']:.2f} x. Resident memory of the "
        f"worker over {memory['num_chunks']} chunks with made-up vectors (MiB): {resident}; peak "
        f"{memory['peak_mib']:.0f}.\n\n" + table(("a question, ms", "p50", "p95", "p99"), lines)
    )


def _generate(generate: dict[str, Any]) -> str:
    lines = []
    for arm, value in generate["tokens_per_s"].items():
        share = generate["share_of_engine"].get(arm)
        name, _, streams = arm.partition("/")
        lines.append(
            (streams, name, f"{value:.0f}", f"{share['median']:.2f} (target 0.90)" if share else "floor")
        )
    heads = ("streams", "arm", "tokens/s", "share")
    return "**Generative tier**, 135M random weights in bf16 (median of rounds)\n\n" + table(heads, lines)


def write(folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    README.write_text(inserted(README.read_text(), block(summary)))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else LATEST)
