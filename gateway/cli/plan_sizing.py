"""From figures measured on one node and a number of users to nodes and GPUs. Pure arithmetic, no I/O.

questions/s   = users / (think time + answer time)
open streams  = questions/s x answer time                             (Little's law)
cores         = questions/s x processor seconds of one answer / utilisation
nodes         = the most that cores, streams or memory ask for, and the spare ones
GPUs          = questions/s x (1 - answered without a model) x tokens / tokens per second of a GPU / utilisation
"""

from __future__ import annotations

import math

import msgspec


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one node was measured to need; perf/results/capacity.json in a checkout. Units end the names.

    *_core_ms: processor milliseconds of one core. per_request: whatever the length of the answer; per_token: for each
    token of it. notes: figure -> where it comes from.
    """

    measured_on: str
    gateway_core_ms_per_request: float
    gateway_core_ms_per_token: float
    edge_core_ms_per_token: float
    retrieval_core_ms_per_request: float
    kib_per_stream: float
    max_streams_per_worker: int
    notes: dict[str, str] = {}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What the users do, and what a node and a GPU are. model_share: of the questions that a language model answers.

    utilisation: of cores and GPUs at the busiest time; the rest is for bursts. gpu_tokens_per_s: output tokens of one
    GPU at the answer's pace, all of its streams together; 0 = no generative tier.
    """

    users: int
    think_s: float = 60.0
    answer_tokens: int = 300
    first_token_s: float = 1.0
    tokens_per_s: float = 25.0
    model_share: float = 1.0
    cores_per_node: int = 16
    memory_gib_per_node: float = 64.0
    utilisation: float = 0.6
    gpu_tokens_per_s: float = 0.0
    spare_nodes: int = 1

    @property
    def answer_s(self) -> float:
        return self.first_token_s + self.answer_tokens / self.tokens_per_s


class Need(msgspec.Struct, frozen=True):
    """The result. bound_by: what the number of gateway nodes follows from. gpus: None = no rate of a GPU was given."""

    questions_per_s: float
    open_streams: int
    tokens_per_s: float
    gateway_cores: float
    edge_cores: float
    retrieval_cores: float
    stream_memory_gib: float
    gateway_workers: int
    gateway_nodes: int
    retrieval_nodes: int
    bound_by: str
    gpus: int | None
    nodes: int


def size(figures: Figures, load: Load) -> Need:
    """Raises: ValueError for a load that no number of nodes carries."""
    if load.users < 1 or min(load.answer_tokens, load.cores_per_node) < 1:
        raise ValueError("users, answer tokens and cores per node must be at least 1")
    if min(load.tokens_per_s, load.memory_gib_per_node) <= 0 or load.think_s < 0 or load.first_token_s < 0:
        raise ValueError("times must not be negative, and pace and memory must be above 0")
    if not 0 < load.utilisation <= 1 or not 0 <= load.model_share <= 1:
        raise ValueError("utilisation must be above 0 and at most 1, the model's share between 0 and 1")
    rate = load.users / (load.think_s + load.answer_s)
    streams = math.ceil(rate * load.answer_s)
    tokens = rate * load.answer_tokens
    gateway = (rate * figures.gateway_core_ms_per_request + tokens * figures.gateway_core_ms_per_token) / 1000
    edge = tokens * figures.edge_core_ms_per_token / 1000
    retrieval = rate * figures.retrieval_core_ms_per_request / 1000
    memory = streams * figures.kib_per_stream / 2**20
    usable = load.cores_per_node * load.utilisation
    workers = max(
        math.ceil(gateway / load.utilisation),  # one event loop uses one core
        math.ceil(streams / figures.max_streams_per_worker),
    )
    asked = {
        "processor": math.ceil((gateway + edge) / usable),
        "open streams": math.ceil(workers / load.cores_per_node),
        "memory": math.ceil(memory / (load.memory_gib_per_node / 2)),
    }
    bound_by = max(asked, key=lambda name: asked[name])
    gateway_nodes = max(1, asked[bound_by]) + load.spare_nodes
    retrieval_nodes = max(1, math.ceil(retrieval / usable)) + load.spare_nodes
    gpus = None
    if load.gpu_tokens_per_s > 0:
        gpus = math.ceil(tokens * load.model_share / load.gpu_tokens_per_s / load.utilisation)
    return Need(
        questions_per_s=rate,
        open_streams=streams,
        tokens_per_s=tokens,
        gateway_cores=gateway,
        edge_cores=edge,
        retrieval_cores=retrieval,
        stream_memory_gib=memory,
        gateway_workers=workers,
        gateway_nodes=gateway_nodes,
        retrieval_nodes=retrieval_nodes,
        bound_by=bound_by,
        gpus=gpus,
        nodes=gateway_nodes + retrieval_nodes,
    )
