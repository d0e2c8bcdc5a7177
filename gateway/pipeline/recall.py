"""What is remembered for one request, on its way through the pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.caching.entry import Entry
from gateway.caching.key import Key
from gateway.pipeline.near_answers import Found
from gateway.pipeline.request import ChatRequest, Evidence


@dataclass
class Recall:
    """What is remembered for one request, and what its own work found out meanwhile.

    entry: the answer to exactly this question, if there is one. is_certain: nothing has changed since it was made.
    tier, evidence: of the work that was done for this request. waited_s: for the shared level.
    """

    key: Key
    request: ChatRequest
    edition: str
    version: str
    reads: bool
    entry: Entry | None = None
    is_certain: bool = False
    is_under_way: bool = False
    tier: str = ""
    evidence: Evidence | None = None
    near: Found | None = None  # another wording's answer
    calm_key: Key | None = None  # what is remembered without the steps that are in force; None = none is
    waited_s: float = 0.0
    is_due: bool = False  # there is an answer, but it is to be made anew
    is_drawn: bool = False  # by chance: two answers differ anyway, so nothing is learned from comparing them

    @property
    def needs_no_slot(self) -> bool:
        return self.is_certain or self.is_under_way
