"""Every tensor of every Triton model: name, dtype, dims, whether optional. The one place that says so.

`tests/config/test_tensors.py` holds each config.pbtxt to this table. Dims exclude the batch dimension;
-1 = any length. A model with max_batch_size 0 has no batch dimension.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

EMBEDDING_DIM = 384  # of the default embedder


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str  # Triton's: BYTES (TYPE_STRING in pbtxt), FP32, INT32
    dims: tuple[int, ...] = (1,)
    optional: bool = False


@dataclass(frozen=True)
class Model:
    """One Triton model. repository: folder under model_repository/.

    background: runs at the lowest priority, so that it may be silent for minutes while others are busy.
    """

    name: str
    repository: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch_size: int
    decoupled: bool = False
    ensemble: bool = False
    background: bool = False


# text -> unit-length sentence embedding, as long as the embedder makes it. role: `query` (when absent) or `passage`,
# for models that tell them apart. embedder: a name of TIDEGATE_EMBEDDERS, absent or empty = the default one. The rows
# of one request agree on both.
EMBED = Model(
    "embed",
    "retrieval",
    inputs=(
        Tensor("text", "BYTES"),
        Tensor("role", "BYTES", optional=True),
        Tensor("embedder", "BYTES", optional=True),
    ),
    outputs=(Tensor("embedding", "FP32", (-1,)),),
    max_batch_size=32,
)

# The same for ingest: in a process of its own that gives way to the others.
EMBED_PASSAGES = replace(EMBED, name="embed_passages", background=True)

# embedding + scope (JSON of types.Scope) -> passages (JSON list of types.Passage, best first) and timings.
# text is the question, for lexical search beside the vector. embedding passes through for the ensemble. embedders:
# JSON list of the other embedders of which the scope's collections hold chunks. epoch: of the corpus that was searched,
# so that an answer's age can be told by it.
SEARCH = Model(
    "search",
    "retrieval",
    inputs=(Tensor("embedding", "FP32", (-1,)), Tensor("text", "BYTES"), Tensor("scope", "BYTES")),
    outputs=(
        Tensor("passages", "BYTES"),
        Tensor("search_ms", "FP32"),
        Tensor("embedders", "BYTES"),
        Tensor("epoch", "INT64"),
    ),
    max_batch_size=32,
)

# candidates of a search -> the scope.k passages that the question gets, reordered by what their sentences say.
RERANK = Model(
    "rerank",
    "retrieval",
    inputs=(Tensor("text", "BYTES"), Tensor("candidates", "BYTES"), Tensor("scope", "BYTES")),
    outputs=(Tensor("passages", "BYTES"),),
    max_batch_size=32,
)

# embed -> search -> rerank
RETRIEVE = Model(
    "retrieve",
    "retrieval",
    inputs=(Tensor("text", "BYTES"), Tensor("scope", "BYTES"), Tensor("embedder", "BYTES", optional=True)),
    outputs=(
        Tensor("embedding", "FP32", (-1,)),
        Tensor("passages", "BYTES"),
        Tensor("search_ms", "FP32"),
        Tensor("embedders", "BYTES"),
        Tensor("epoch", "INT64"),
    ),
    max_batch_size=32,
    ensemble=True,
)

# question + passages (JSON list of types.Passage) + params (JSON of generation.extractive.ReaderParams)
# -> a stream of deltas. citations is a JSON list of types.Citation for the sentences in this delta.
READER = Model(
    "reader",
    "generation",
    inputs=(Tensor("question", "BYTES"), Tensor("passages", "BYTES"), Tensor("params", "BYTES")),
    outputs=(
        Tensor("text_output", "BYTES"),
        Tensor("citations", "BYTES"),
        Tensor("finish_reason", "BYTES"),
        Tensor("num_input_tokens", "INT32"),
        Tensor("num_output_tokens", "INT32"),
    ),
    max_batch_size=0,
    decoupled=True,
)

# Always there; a generative tier adds `generate_model(its name)`.
MODELS = (EMBED, EMBED_PASSAGES, SEARCH, RERANK, RETRIEVE, READER)

# One folder, `tiers/generate`, is the model of every generative tier: Triton loads it once under each tier's name.
TIERS_REPOSITORY = "tiers"
GENERATE_FOLDER = "generate"


def generate_model(name: str) -> Model:
    """The model of one generative tier.

    Either `prompt` (plain text, tokenised as it stands) or `messages` (JSON list of {"role", "content"}, put through
    the checkpoint's chat template). stop: JSON list of texts. continuation_ids: output so far of a request that was
    cut off; the answer goes on after it. coalesce_ms: longest time that made tokens may wait for company (0 = each
    step at once, -1 or absent = by load). max_tokens 0 asks for nothing and shows that the engine lives. json_schema:
    JSON Schema that the output must fit, for engines that can. priority: 0 comes first, larger ones give way.
    -> a stream; text_output and output_ids are what is new in this message. Only the last message has finish_reason
    and num_input_tokens; a delta leaves them out, because each tensor costs time in Triton.
    """
    return Model(
        name,
        TIERS_REPOSITORY,
        inputs=(
            Tensor("prompt", "BYTES", optional=True),
            Tensor("messages", "BYTES", optional=True),
            Tensor("max_tokens", "INT32", optional=True),
            Tensor("temperature", "FP32", optional=True),
            Tensor("top_p", "FP32", optional=True),
            Tensor("seed", "INT64", optional=True),
            Tensor("stop", "BYTES", optional=True),
            Tensor("continuation_ids", "INT32", (-1,), optional=True),
            Tensor("ignore_eos", "BOOL", optional=True),
            Tensor("coalesce_ms", "INT32", optional=True),
            Tensor("json_schema", "BYTES", optional=True),
            Tensor("priority", "INT32", optional=True),
        ),
        outputs=(
            Tensor("text_output", "BYTES"),
            Tensor("output_ids", "INT32", (-1,)),
            Tensor("finish_reason", "BYTES", optional=True),
            Tensor("num_input_tokens", "INT32", optional=True),
            Tensor("version", "BYTES", optional=True),
        ),
        max_batch_size=0,
        decoupled=True,
    )


def stream_error(status: str, text: str) -> str:
    """What a decoupled model says when it fails: a message in a stream has no status of its own, so the text begins
    with the name of a gRPC status. (Triton's other way, `triton_grpc_error`, crashes it: DECISIONS.md section 39.)"""
    return f"{status}: {text}"


def split_stream_error(message: str) -> tuple[str, str]:
    """Status and text of a stream's error. Triton's own words have no status: they count as INTERNAL."""
    status, found, text = message.partition(": ")
    return (status, text) if found and status.isupper() and " " not in status else ("INTERNAL", message)
