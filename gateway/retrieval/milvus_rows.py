"""A chunk as a row of a Milvus table, and back. Pure: names and lengths of the fields, no calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gateway.language.terms import is_content, stem, words
from gateway.retrieval.milvus_filter import key, stored_attributes, unkey
from gateway.storage.corpus import ChunkRow
from gateway.types import Passage

MAX_TEXT_BYTES = 65_535  # the longest VARCHAR of Milvus
NO_TERMS = "nothingbutstopwords"  # not every server takes a row without words
MAX_KEY_BYTES = 600  # 64 characters, written as hexadecimal digits where they are not plain
MAX_NAME_BYTES = 2_048  # 512 characters
PASSAGE_FIELDS = (
    "collection",
    "file",
    "filename",
    "ordinal",
    "heading",
    "start_char",
    "end_char",
    "page",
    "text",
    "epoch",
)


def usable_vector(data: bytes, dim: int) -> npt.NDArray[np.float32] | None:
    """The vector at length 1; None when it has another size, is zero or not finite. dim 0 = any size."""
    if len(data) % 4:
        return None
    vector = np.frombuffer(data, "<f4")
    square = float(np.dot(vector, vector))
    if (dim and len(vector) != dim) or not 0.0 < square < float("inf"):  # false for NaN too
        return None
    return vector / np.float32(square**0.5)


def row_of(chunk: ChunkRow, vector: npt.NDArray[np.float32], attributes: Mapping[str, Any]) -> dict[str, Any]:
    """attributes: those of the chunk's file in its collection."""
    text = clipped(chunk.text, MAX_TEXT_BYTES)
    terms = lexical_terms(f"{chunk.heading} {chunk.text}")
    return {
        "id": chunk.id,
        "tenant": key(chunk.tenant_id),
        "collection": key(chunk.collection_id),
        "file": key(chunk.file_id),
        "epoch": chunk.epoch,
        "filename": clipped(chunk.filename, MAX_NAME_BYTES),
        "ordinal": chunk.ordinal,
        "heading": clipped(chunk.heading, MAX_NAME_BYTES),
        "start_char": chunk.start_char,
        "end_char": chunk.end_char - (len(chunk.text) - len(text)),  # text == stored[start:end] still
        "page": chunk.page,
        "text": text,
        "terms": clipped(" ".join(terms) or NO_TERMS, MAX_TEXT_BYTES),
        "attributes": stored_attributes(attributes),
        "vector": vector,
    }


def passage_of(chunk_id: int, row: Mapping[str, Any], *, cosine: float, lexical: float) -> Passage:
    return Passage(
        chunk_id=chunk_id,
        collection_id=unkey(row["collection"]),
        file_id=unkey(row["file"]),
        filename=row["filename"],
        ordinal=row["ordinal"],
        heading=row["heading"],
        start=row["start_char"],
        end=row["end_char"],
        text=row["text"],
        page=row["page"],
        chunk_ids=[chunk_id],
        score=cosine,
        lexical=lexical,
    )


def lexical_terms(text: str) -> list[str]:
    """Stems of the content words, in plain letters and digits: every analyzer of Milvus leaves them as they are."""
    return [_plain(stem(word.text)) for word in words(text) if is_content(word.text)]


def _plain(term: str) -> str:
    return term if term.isascii() and term.isalnum() else "x" + term.encode("utf-8", "surrogatepass").hex()


def clipped(text: str, max_bytes: int) -> str:
    """As many whole characters from the front as fit."""
    data = text.encode("utf-8", "surrogatepass")
    return text if len(data) <= max_bytes else data[:max_bytes].decode("utf-8", "ignore")


def cosine_of(query: npt.NDArray[np.float32], vector: Sequence[float]) -> float:
    """Both of length 1."""
    return float(np.dot(query, np.asarray(vector, np.float32)))
