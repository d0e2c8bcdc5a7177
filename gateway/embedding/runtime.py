"""Texts in, unit vectors out: tokenise, pad to the longest, run the whole batch at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gateway.embedding.engines import open_engine
from gateway.embedding.export import MODEL_FILE, TOKENIZER_FILE, EmbedderUnavailable, read_built
from gateway.embedding.tokens import SentenceTokenizer, pad

MAX_RUN_ROWS = 32
RUN_OVERHEAD_TOKENS = 128  # padding that costs as much as one more run (measured: no gain below it)


class SentenceEmbedder:
    """A model folder that `export` has built. Calls from several threads are safe and wait for one another.

    precision: `auto` takes bf16 where the processor has it, else f32. threads: 0 = all cores. provider, buckets: as the
    settings of that name; a bucket longer than a text may be is left out.
    Raises: EmbedderUnavailable when the folder, a runtime or the asked-for precision is missing.
    """

    def __init__(
        self,
        model_dir: Path,
        *,
        precision: str = "auto",
        threads: int = 0,
        provider: str = "auto",
        buckets: Sequence[int] = (),
    ) -> None:
        if not (model_dir / MODEL_FILE).is_file() or not (model_dir / TOKENIZER_FILE).is_file():
            raise EmbedderUnavailable(f"{model_dir} holds no embedding model.")
        self._shape = read_built(model_dir)
        self._tokenizer = SentenceTokenizer(model_dir / TOKENIZER_FILE, self._shape.max_tokens)
        longest = self._shape.max_tokens
        usable = [*(length for length in buckets if length < longest), longest] if buckets else []
        self._engine = open_engine(model_dir / MODEL_FILE, precision, threads, provider, buckets=usable)
        self._lock = threading.Lock()

    @property
    def engine(self) -> str:
        return self._engine.name

    @property
    def device(self) -> str:
        return self._engine.device

    @property
    def precision(self) -> str:
        return self._engine.precision

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths that runs are padded to; () = each run's own."""
        return self._engine.buckets

    @property
    def dim(self) -> int:
        return self._shape.dim

    def embed(self, texts: Sequence[str], role: str = "passage") -> npt.NDArray[np.float32]:
        """Unit vectors [len(texts), dim], in order. Any text is fine; its first max_tokens tokens count.

        role: `query` or `passage`; most models treat both alike.
        """
        prompt = self._shape.prompts.get(role, "")
        rows = self._tokenizer.encode([prompt + text for text in texts] if prompt else texts)
        with self._lock:
            return self._run(rows)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole text, [CLS] and [SEP] included; above max_tokens the rest does not reach the vector."""
        return self._tokenizer.count(texts)

    def warm_up(self, num_rows: Sequence[int], lengths: Sequence[int]) -> None:
        """Run every (rows, tokens) shape once: the first run of a shape costs milliseconds more than the next."""
        with self._lock:
            for rows in num_rows:
                for length in lengths:
                    ids = np.zeros((rows, length), np.int64)
                    self._engine.run(ids, np.ones_like(ids))

    def _run(self, rows: list[list[int]]) -> npt.NDArray[np.float32]:
        groups = list(split(list(map(len, rows))))
        if len(groups) == 1:
            return self._engine.run(*self._padded(rows))
        vectors = np.empty((len(rows), self._shape.dim), np.float32)
        for group in groups:
            vectors[group] = self._engine.run(*self._padded([rows[index] for index in group]))
        return vectors

    def _padded(self, rows: list[list[int]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if not self.buckets:
            return pad(rows)
        longest = max(map(len, rows))
        return pad(rows, next(length for length in self.buckets if length >= longest))


def split(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Row numbers of each run: one run while padding is cheaper than a second one, else longest rows first.

    Holds: every row is in exactly one run; a single run keeps the given order; no run has more than MAX_RUN_ROWS.
    """
    longest = max(lengths, default=0)
    if len(lengths) <= MAX_RUN_ROWS and longest * len(lengths) - sum(lengths) <= RUN_OVERHEAD_TOKENS:
        if lengths:
            yield list(range(len(lengths)))
        return
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    start = 0
    for position, row in enumerate(order):
        rest = len(order) - position
        saved = (lengths[order[start]] - lengths[row]) * min(rest, MAX_RUN_ROWS)
        if position - start == MAX_RUN_ROWS or saved > RUN_OVERHEAD_TOKENS:
            yield order[start:position]
            start = position
    yield order[start:]
