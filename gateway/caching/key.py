"""What makes two requests the same: one digest of all that decides an answer, the tenant first.

Knows what goes in, not where it comes from. Two requests with one `scope` differ in their question alone.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gateway.filters import Filter
from gateway.types import Sampling, Turn

_SPACE = re.compile(r"\s+")
_QUESTION_MARK = re.compile(r"(?<=\w) ?\?\Z")
_REPEATED = 1024  # keys that are not worked out again
_MAX_REPEATED_CHARS = 1024  # of what such a key is made from
_encode = msgspec.json.Encoder().encode


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides an answer but its question and the corpus.

    edition: of the tier: its model and its prompt. steps: of the ladder, as they change the answer. may_escalate:
    whether a better tier looks again where this one finds too little. history: of a tier that reads it, else empty.
    """

    tenant_id: str
    tier: str
    edition: str
    collections: Sequence[str] = ()
    filters: Filter | None = None
    num_passages: int = 0
    max_hops: int = 0
    steps: Sequence[str] = ()
    may_escalate: bool = False
    sampling: Sampling = Sampling()
    history: Sequence[Turn] = ()


class Key(NamedTuple):
    """digest: of one question in one scope; scope: of everything but the question. Both in hex."""

    tenant_id: str
    scope: str
    digest: str


def key_of(setting: Setting, question: str, written: str = "") -> Key:
    """written: a follow-up as it was written, where the tier sees that too."""
    if setting.collections:  # in whatever order they were named
        setting = msgspec.structs.replace(setting, collections=sorted(set(setting.collections)))
    decides = _encode(setting)
    is_short = len(decides) + len(question) + len(written) <= _MAX_REPEATED_CHARS
    return (_repeated if is_short else _key)(setting.tenant_id, decides, question, written)


def _key(tenant_id: str, decides: bytes, question: str, written: str) -> Key:
    scope = hashlib.blake2b(decides, digest_size=16).hexdigest()
    asked = _encode([scope, normalised(question), normalised(written)])
    return Key(tenant_id, scope, hashlib.blake2b(asked, digest_size=16).hexdigest())


_repeated = functools.lru_cache(_REPEATED)(_key)


def normalised(question: str) -> str:
    """Without what no reader of a question would see: kinds of white space, forms of one letter, the question mark."""
    return _QUESTION_MARK.sub("", _SPACE.sub(" ", unicodedata.normalize("NFC", question)).strip())
