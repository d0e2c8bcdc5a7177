"""One remembered answer with the evidence that it was made from, and its bytes: versioned, compressed, checked.

Bytes come from a store that others can write to. Whatever is not exactly an entry of this version and of the key that
was asked for is refused, never repaired.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.caching.key import Key
from gateway.shown import SharedPassages
from gateway.types import Citation, Passage

MAGIC = b"tga"
VERSION = 1  # of the bytes; what another version has written is a miss
MAX_BYTES = 4 * 2**20  # of an entry before it is compressed
_LEVEL = 1  # of zlib: most of the gain for a fifth of the time


class EntryRefused(ValueError):
    """reason: foreign, version, damaged, too_large or other_key: the metric's label."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A part of the answer as it was sent."""

    text: str
    citations: list[Citation] = []


class Entry(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """An answer and all that a hit needs to be given and judged.

    epoch: everything committed up to here was searched for it; -1 = not known. created: unix seconds. expires: unix
    seconds. vector: of the question, float32. tier: that answered. in_prompt: numbers of the passages that it read.
    """

    tenant_id: str
    scope: str
    digest: str
    question: str
    pieces: list[Piece]
    passages: list[Passage]
    tier: str
    edition: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    unsupported_citations: int = 0
    hops: int = 0
    in_prompt: list[int] = []
    degraded: list[str] = []
    epoch: int
    created: float
    expires: float
    vector: bytes = b""

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @cached_property
    def cited(self) -> frozenset[int]:
        """Numbers of the passages that the answer quotes."""
        return frozenset(citation.passage for piece in self.pieces for citation in piece.citations)

    @cached_property
    def shown(self) -> SharedPassages:
        """The passages, as the receipts of all who are given the answer tell them."""
        return SharedPassages.of(self.passages, in_prompt=self.in_prompt, cited=self.cited)

    def embedding(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(self.vector, np.float32)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Entry)


def encode(entry: Entry) -> bytes:
    """Raises: EntryRefused (too_large)."""
    body = _encoder.encode(entry)
    if len(body) > MAX_BYTES:
        raise EntryRefused("too_large")
    return MAGIC + bytes([VERSION]) + zlib.compress(body, _LEVEL)


def decode(data: bytes, key: Key) -> Entry:
    """The entry of that key. Raises: EntryRefused."""
    entry = decode_any(data)
    if (entry.tenant_id, entry.scope, entry.digest) != tuple(key):
        raise EntryRefused("other_key")
    return entry


def decode_any(data: bytes) -> Entry:
    """The entry, whosever it is. Raises: EntryRefused."""
    if data[: len(MAGIC)] != MAGIC:
        raise EntryRefused("foreign")
    if data[len(MAGIC) : len(MAGIC) + 1] != bytes([VERSION]):
        raise EntryRefused("version")
    try:
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(data[len(MAGIC) + 1 :], MAX_BYTES)
        if not unpacker.eof:
            raise EntryRefused("too_large" if unpacker.unconsumed_tail else "damaged")
        entry = _decoder.decode(body)
    except (zlib.error, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EntryRefused("damaged") from error
    if not _is_sound(entry):
        raise EntryRefused("damaged")
    return entry


def _is_sound(entry: Entry) -> bool:
    numbers = range(1, len(entry.passages) + 1)
    return (
        all(number in numbers for number in (*entry.cited, *entry.in_prompt)) and len(entry.vector) % 4 == 0
    )


def identity(passage: Passage) -> tuple[str, str, tuple[int, ...]]:
    """What a passage is, at its version: an id of a chunk never comes to mean another text."""
    return passage.collection_id, passage.file_id, tuple(passage.chunk_ids or (passage.chunk_id,))


def same_evidence(before: Sequence[Passage], now: Sequence[Passage]) -> bool:
    """Whether two retrievals found the same passages at the same versions, in whatever order."""
    return set(map(identity, before)) == set(map(identity, now))


def chunk_ids(passages: Sequence[Passage]) -> frozenset[int]:
    return frozenset(number for passage in passages for number in passage.chunk_ids or (passage.chunk_id,))


def agreement(before: Sequence[Passage], now: Sequence[Passage]) -> float:
    """Share of the chunks that two retrievals have in common, 0..1; 1 where both found nothing."""
    old, new = chunk_ids(before), chunk_ids(now)
    return len(old & new) / len(old | new) if old or new else 1.0
