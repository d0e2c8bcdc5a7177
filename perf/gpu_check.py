"""What a machine with a GPU and torch alone can show of us: `python -m perf.gpu_check --model … --cases … --out …`.

1. The embedder's own ONNX graph, run by torch on the GPU: the same vectors as on the processor, and how many texts a
   second. 2. The memory arithmetic of gateway/checkpoint/gpu_memory.py against a language model of random weights that
really stands there: weights, cache, activations, and the floors of time per token and of reading a prompt.
No serving library is needed; none of its speed is shown.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from gateway.checkpoint import gpu_memory
from perf.parts import measure_parts

ROWS = 32
LENGTHS = (16, 32, 64, 128, 256, 512)
LLAMA_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
}  # fmt: skip


class TorchGraph:
    """The embedder's graph on a device, in one arithmetic. dtype: of weights and activations."""

    def __init__(self, path: Path, device: str, dtype: torch.dtype) -> None:
        graph = onnx.load(path).graph
        self._nodes = list(graph.node)
        self._dtype = dtype
        self._constants = {each.name: self._on(each, device, dtype) for each in graph.initializer}

    @staticmethod
    def _on(tensor: Any, device: str, dtype: torch.dtype) -> torch.Tensor:
        value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
        return value.to(device, dtype) if value.is_floating_point() else value  # axes and sizes are read here

    @torch.inference_mode()
    def run(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        values: dict[str, Any] = {**self._constants, "input_ids": ids, "attention_mask": mask}
        for node in self._nodes:
            attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
            values[node.output[0]] = self._apply(
                node.op_type, [values[name] for name in node.input], attributes
            )
        return values["embedding"].float()

    def _apply(self, kind: str, inputs: list[Any], said: dict[str, Any]) -> Any:
        first = inputs[0]
        match kind:
            case "Add" | "Sub" | "Mul" | "Div":
                return getattr(torch, kind.lower())(first, inputs[1])
            case "MatMul":
                return first @ inputs[1]
            case "Cast":
                return first.to(self._dtype)
            case "Shape":
                return list(first.shape[said["start"] : said["end"]])
            case "Slice":
                return first[: int(inputs[2][0])]
            case "Gather":
                return first[inputs[1]]
            case "Reshape":
                wanted = [
                    first.shape[at] if size == 0 else size for at, size in enumerate(inputs[1].tolist())
                ]
                return first.reshape(wanted)
            case "Transpose":
                return first.permute(said["perm"])
            case "Unsqueeze":
                for axis in sorted(inputs[1].tolist()):
                    first = first.unsqueeze(axis)
                return first
            case "ReduceSum":
                return first.sum(dim=inputs[1].tolist(), keepdim=bool(said["keepdims"]))
            case "LayerNormalization":
                return torch.nn.functional.layer_norm(
                    first, first.shape[-1:], inputs[1], inputs[2], said["epsilon"]
                )
            case "Softmax":
                return first.softmax(said["axis"])
            case "Erf" | "Sqrt":
                return getattr(torch, kind.lower())(first)
            case "Max":
                return torch.maximum(first, inputs[1].to(first.dtype))
        raise NotImplementedError(kind)


def embedder(model: Path, cases: Path, device: str) -> dict[str, Any]:
    """cases: ids_L and mask_L [32, L], vectors_L [32, D] of the processor's engine, for each length L."""
    given = np.load(cases)
    found: dict[str, Any] = {}
    for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16), ("f16", torch.float16)):
        graph = TorchGraph(model, device, dtype)
        rows = found[name] = {}
        for length in LENGTHS:
            ids, mask = (torch.from_numpy(given[f"{kind}_{length}"]).to(device) for kind in ("ids", "mask"))
            vectors = graph.run(ids, mask).cpu().numpy()
            expected = given[f"vectors_{length}"]
            work = partial(graph.run, ids, mask)
            rows[str(length)] = {
                "least_cosine": float((vectors * expected).sum(1).min()),
                "largest_difference": float(np.abs(vectors - expected).max()),
                "plain_ms": 1e3 * timed(work, device),
            }
            if device == "cuda":  # without it the time is that of starting three hundred kernels from Python
                graph_s = timed(captured(work), device)
                rows[str(length)] |= {"graph_ms": 1e3 * graph_s, "texts_per_s": ROWS / graph_s}
    return found


def language_model(
    device: str, config: dict[str, int], prompt: int, batch: int, context: int
) -> dict[str, Any]:
    """Measured beside what gpu_memory says of the same shape."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**config, tie_word_embeddings=False)).eval()
    torch.set_default_dtype(torch.float32)
    weights = sum(each.numel() for each in model.parameters())
    shape = gpu_memory.ModelShape(
        num_weights=weights,
        weight_bytes=weights * 2,
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
    )
    found: dict[str, Any] = {"num_weights": weights, "weight_bytes": shape.weight_bytes}
    found["allocated_bytes"] = allocated(device)
    ids = torch.randint(0, config["vocab_size"], (1, prompt), device=device)
    with torch.inference_mode():
        before = allocated(device)
        reset_peak(device)
        out = model(ids, use_cache=True, past_key_values=DynamicCache(), logits_to_keep=1)
        cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers)
        found["prefill"] = {
            "tokens": prompt,
            "cache_bytes": cache,
            "cache_bytes_said": gpu_memory.kv_bytes_a_token(shape, 2.0) * prompt,
            "allocated_after_bytes": allocated(device) - before,
            "activation_bytes": peak(device) - before - cache,
            "activation_bytes_said": prompt * shape.hidden * gpu_memory.ACTIVATION_VALUES * 2,
        }
        del out
        found["prefill"]["ms"] = 1e3 * timed(
            lambda: model(ids, use_cache=True, past_key_values=DynamicCache(), logits_to_keep=1), device, 3
        )
        found["decode"] = decode(model, config["vocab_size"], device, batch, context)
    return found


def decode(model: Any, vocabulary: int, device: str, batch: int, context: int) -> list[dict[str, Any]]:
    """Gaps between tokens, plain and as a captured graph, with a cache of the stated length that is full."""
    from transformers import StaticCache

    rows = []
    for size in (1, batch):
        cache = StaticCache(config=model.config, max_cache_len=context)
        token = torch.randint(0, vocabulary, (size, 1), device=device)
        at = torch.tensor([context - 1], device=device)

        def step(token: Any = token, cache: Any = cache, at: Any = at) -> Any:
            return model(
                token, past_key_values=cache, cache_position=at, position_ids=at[None], use_cache=True
            ).logits

        row: dict[str, Any] = {"batch": size, "context": context, "plain_ms": 1e3 * timed(step, device)}
        if device == "cuda":
            try:
                row["graph_ms"] = 1e3 * timed(captured(step), device)
            except Exception as error:  # noqa: BLE001 - the plain figure still stands
                row["graph_error"] = f"{type(error).__name__}: {error}"[:300]
        rows.append(row)
    return rows


def captured(step: Callable[[], Any]) -> Callable[[], None]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def timed(work: Callable[[], Any], device: str, times: int = 10) -> float:
    """Seconds of one, the best of three rounds."""
    work()
    best = float("inf")
    for _ in range(3):
        wait(device)
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait(device)
        best = min(best, (time.perf_counter() - started) / times)
    return best


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def allocated(device: str) -> int:
    return torch.cuda.memory_allocated() if device == "cuda" else 0


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def peak(device: str) -> int:
    return torch.cuda.max_memory_allocated() if device == "cuda" else 0


def rates(device: str) -> dict[str, float]:
    """What the GPU itself can: bytes of its memory a second (read and written), operations a second in bf16."""
    copy_s = _copy_s(device)
    matrix = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    product_s = timed(lambda: matrix @ matrix, device)
    return {"bytes_a_s": 2 * 2**31 / copy_s, "bf16_flops": 2 * 8192**3 / product_s}


def _copy_s(device: str) -> float:
    big = torch.empty(2**31, dtype=torch.uint8, device=device)
    other = torch.empty_like(big)
    return timed(lambda: other.copy_(big), device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "cases", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try this without a GPU")
    parser.add_argument("--only", choices=("rates", "embedder", "language_model"), help="one part alone")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    facts: dict[str, Any] = {"torch": torch.__version__, "device": given.device}
    if given.device == "cuda":
        free, total = torch.cuda.mem_get_info()
        facts |= {"gpu": torch.cuda.get_device_name(), "context_bytes": total - free, "total_bytes": total}
        facts["capability"] = torch.cuda.get_device_capability()
    parts: dict[str, Callable[[], Any]] = {
        "embedder": lambda: embedder(given.model, given.cases, given.device),
        "language_model": lambda: (
            language_model(given.device, TINY, 256, 4, 128)
            if given.tiny
            else language_model(given.device, LLAMA_8B, 8192, 32, 2048)
        ),
    }
    if given.device == "cuda":
        parts = {"rates": lambda: rates(given.device), **parts}
    chosen = {name: part for name, part in parts.items() if given.only in {None, name}}
    measure_parts(chosen, given.out, **facts)


if __name__ == "__main__":
    main()
