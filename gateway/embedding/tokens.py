"""Text to token ids for a sentence encoder, as its reference pipeline does it.

What tokenizer.json says of truncation and padding is undone here (the default model's: 128 tokens, both).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from gateway.embedding.architecture import EmbedderUnavailable

MAX_TOKENS = 256  # max_seq_length of the default model's reference pipeline, [CLS] and [SEP] included
MAX_CHARS = 32_768  # read of one text: 128 characters for each token, so only freak texts lose anything by it

Int64 = npt.NDArray[np.int64]


class SentenceTokenizer:
    """max_tokens: of one text, the rest is cut. Raises: EmbedderUnavailable when the file is no tokenizer."""

    def __init__(self, path: Path, max_tokens: int = MAX_TOKENS) -> None:
        self._max_tokens = max_tokens
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # it raises no other class
            raise EmbedderUnavailable(f"{path} is no tokenizer: {error}.") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, [CLS] first and [SEP] last, cut to max_tokens. Never fails: see well_formed."""
        rows = [encoding.ids for encoding in self._encode([text[:MAX_CHARS] for text in texts])]
        for row in rows:
            if (
                len(row) > self._max_tokens
            ):  # cheaper than the tokenizer's truncation, which keeps the overflow
                row[self._max_tokens - 1 :] = row[-1:]  # [SEP]
        return rows

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each whole text, before any cut, [CLS] and [SEP] included."""
        return [len(encoding.ids) for encoding in self._encode(list(texts))]

    def _encode(self, texts: list[str]) -> list[Encoding]:
        try:
            return self._tokenizer.encode_batch_fast(texts)
        except TypeError:  # a lone surrogate: it has no UTF-8 form, so the tokenizer refuses the whole batch
            return self._tokenizer.encode_batch_fast([well_formed(text) for text in texts])


def well_formed(text: str) -> str:
    """The same text with surrogate pairs joined and lone surrogates replaced by U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def pad(rows: Sequence[Sequence[int]], length: int = 0) -> tuple[Int64, Int64]:
    """Ids and mask, both [len(rows), longest or length], contiguous. Padding is id 0 and mask 0."""
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    present = np.arange(max(length, lengths.max())) < lengths[:, None]
    ids = np.zeros(present.shape, np.int64)
    ids[present] = np.fromiter(chain.from_iterable(rows), np.int64)
    return ids, present.astype(np.int64)
