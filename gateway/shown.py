"""Passages as receipts tell them. Those of an answer that is given many times are told once and shared."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import msgspec

from gateway.types import Passage, Receipt

_encode = msgspec.json.Encoder().encode


def shown(number: int, passage: Passage) -> dict[str, Any]:
    """A passage as the receipt tells it. `n` is the number in the answer's [n] marks."""
    return {
        "n": number,
        "collection_id": passage.collection_id,
        "file_id": passage.file_id,
        "filename": passage.filename,
        "heading": passage.heading,
        "score": round(passage.score, 4),
        "start": passage.start,
        "end": passage.end,
        "page": passage.page,
        "text": passage.text,
        "in_prompt": True,
        "cited": False,
    }


class SharedPassages(list[dict[str, Any]]):
    """Of a remembered answer, in the receipts of all who got it: never changed once it is made.

    digest: the same for the same passages told the same way, 32 hex digits; what they are stored by, once.
    """

    @classmethod
    def of(
        cls, passages: Sequence[Passage], *, in_prompt: Collection[int], cited: Collection[int]
    ) -> SharedPassages:
        """in_prompt, cited: numbers, from 1, of those that the tier read and those that the answer quotes."""
        made = cls(shown(number, passage) for number, passage in enumerate(passages, 1))
        for each in made:
            each["in_prompt"], each["cited"] = each["n"] in in_prompt, each["n"] in cited
        return made

    @cached_property
    def json(self) -> bytes:
        return _encode(self)

    @cached_property
    def digest(self) -> str:
        return hashlib.blake2b(self.json, digest_size=16).hexdigest()


def ready_to_encode(receipt: Receipt) -> Receipt:
    """The receipt for msgspec's JSON encoder: shared passages are not encoded again."""
    if not isinstance(receipt.passages, SharedPassages):
        return receipt
    encoded: Any = msgspec.Raw(receipt.passages.json)
    return msgspec.structs.replace(receipt, passages=encoded)
