"""What Triton costs a generative tier: tokens/s of the engine behind gRPC beside the engine called directly.

A model of 135M parameters with random weights (perf/checkpoint.py), greedy, end token ignored. Arms, interleaved:

    engine     generation.openvino_engine in this process: the floor
    grpc       the tier's model on Triton over raw stubs, tokens coalesced as in service
    grpc_each  the same, every step's tokens in a message of their own

Rounds of 8 and of 32 streams that begin at once; a round's prompts are its own, so no cache of an earlier one helps.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from tritonclient.grpc import service_pb2_grpc

from gateway.checkpoint.chat_format import ChatFormat
from gateway.checkpoint.errors import CheckpointError
from gateway.generation.openvino_engine import OpenVinoEngine
from gateway.ports import GenerationParams
from gateway.tensors import generate_model
from gateway.tier_config import GenerateTier
from gateway.triton import fill, make_plan
from perf import rows
from perf.checkpoint import TIER, random_tier, tiers_file
from perf.profile import Profile, processor_seconds, spent
from perf.rows import Row
from perf.service import Service, running_service

NUM_STREAMS = (8, 32)
PROMPT_WORDS = 64  # a token each: see perf/checkpoint_script.py
TARGET = 0.9

Generate = Callable[[str], Awaitable[int]]  # a prompt -> how many tokens were made


@dataclass(frozen=True)
class Size:
    num_rounds: int = 3
    num_tokens: int = 64


QUICK = Size(num_rounds=1, num_tokens=8)


class Direct:
    """The engine alone, in this process and its event loop."""

    def __init__(self, tier: GenerateTier, num_tokens: int) -> None:
        folder = Path(tier.checkpoint)
        self._chat = ChatFormat.load(folder)
        self._engine = OpenVinoEngine(folder, tier, self._chat.end_ids)
        self._params = GenerationParams(max_tokens=num_tokens, ignore_eos=True)

    async def generate(self, prompt: str) -> int:
        made = 0
        async for step in self._engine.generate(self._chat.encode_plain(prompt), self._params):
            made += len(step.token_ids)
        return made

    async def close(self) -> None:
        await self._engine.close()


class OverGrpc:
    """The tier's model on Triton. coalesce_ms: as in tensors.generate_model."""

    def __init__(self, target: str, num_tokens: int, coalesce_ms: int) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)])
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._inputs = {
            "max_tokens": np.array([num_tokens], np.int32),
            "ignore_eos": np.array([True]),
            "coalesce_ms": np.array([coalesce_ms], np.int32),
        }
        self._plan = make_plan(generate_model(TIER), ["prompt", *self._inputs], 1)

    async def generate(self, prompt: str) -> int:
        """Raises: RuntimeError with the model's own words."""
        made = 0
        call = self._stub.ModelStreamInfer(timeout=120)
        await call.write(fill(self._plan, {"prompt": prompt, **self._inputs}))
        await call.done_writing()
        while (message := await call.read()) is not grpc.aio.EOF:
            if message.error_message:
                raise RuntimeError(message.error_message)
            made += message.infer_response.outputs[1].shape[0]  # output_ids
        return made

    async def close(self) -> None:
        await self._channel.close()


def prompt(rng: random.Random) -> str:
    """Words of two letters, each a token of the vocabulary."""
    return "".join(" " + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2)) for _ in range(PROMPT_WORDS))


async def measure(service: Service, tier: GenerateTier, size: Size) -> tuple[list[Row], Profile]:
    target = f"127.0.0.1:{service.settings.triton_ports(0)[0]}"
    arms: dict[str, Direct | OverGrpc] = {
        "engine": Direct(tier, size.num_tokens),
        "grpc": OverGrpc(target, size.num_tokens, -1),
        "grpc_each": OverGrpc(target, size.num_tokens, 0),
    }
    out: list[Row] = []
    profile: Profile = {}
    rng = random.Random(0)
    try:
        for arm in arms.values():  # the first request pays for the runtime's own preparations
            await asyncio.gather(*(arm.generate(prompt(rng)) for _ in range(4)))
        for number in range(size.num_rounds):
            for num_streams in NUM_STREAMS:
                for name, arm in arms.items():
                    prompts = [prompt(rng) for _ in range(num_streams)]
                    before = processor_seconds(service)
                    out += await _round(
                        f"{name}/{num_streams}", number, arm.generate, prompts, size.num_tokens
                    )
                    count = num_streams * size.num_tokens
                    profile[f"{name}/{num_streams}"] = spent(before, processor_seconds(service), count)
    finally:
        for arm in arms.values():
            await arm.close()
    return out, profile


async def _round(arm: str, number: int, generate: Generate, prompts: list[str], num_tokens: int) -> list[Row]:
    """All prompts at once. Raises: RuntimeError when one does not get all of its tokens."""

    async def one(text: str) -> Row:
        sent_s = time.perf_counter()
        made = await generate(text)
        if made != num_tokens:
            raise RuntimeError(f"{arm}: {made} tokens for {num_tokens}")
        return Row(arm, number, sent_s, sent_s, time.perf_counter(), made)

    return await asyncio.gather(*(one(text) for text in prompts))


def summarise(found: list[Row], profile: Profile) -> dict[str, Any]:
    rates = rows.rates(found)
    shares = {
        f"{arm}/{count}": rows.ratio(rates[f"{arm}/{count}"], rates[f"engine/{count}"])
        for count in NUM_STREAMS
        for arm in ("grpc", "grpc_each")
    }
    return {
        "tokens_per_s": rows.medians(rates),
        "share_of_engine": shares,
        "processor_us_per_token": profile,  # of the last round
    }


def show(summary: dict[str, Any]) -> None:
    print(f"\ngenerative tier, 135M random weights (tokens/s, median of rounds; target >= {TARGET})")
    for arm, value in summary["tokens_per_s"].items():
        share = summary["share_of_engine"].get(arm)
        told = (
            f"  = {share['median']:.2f} of the engine ({share['q1']:.2f} to {share['q3']:.2f})"
            if share
            else ""
        )
        print(f"  {arm:13} {value:7.0f}{told}")


def run(size: Size) -> tuple[list[Row], Profile] | None:
    """None, having said why, where no checkpoint can be made."""
    try:
        tier = random_tier(slots=max(NUM_STREAMS), context_tokens=2 * PROMPT_WORDS + size.num_tokens)
    except CheckpointError as missing:
        print(f"the generative tier is left out: {missing}")
        return None
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(**tiers_file(Path(folder), tier)) as service,
    ):
        return uvloop.run(measure(service, tier, size))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="seconds, not minutes: shows that it works")
    args = parser.parse_args()
    found = run(QUICK if args.quick else Size())
    if found is None:
        return 2
    show(summarise(*found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
