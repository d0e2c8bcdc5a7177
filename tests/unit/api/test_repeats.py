"""Bodies whose meaning is remembered: by caller and bytes alone, and bounded."""

from __future__ import annotations

import msgspec

from gateway.api.repeats import MAX_BODY_BYTES, MAX_KEPT, Repeats
from gateway.types import Tenant

ACME = Tenant("acme", "key-1")


def test_the_same_bytes_of_the_same_caller_mean_the_same() -> None:
    repeats = Repeats[str]()
    repeats.keep(ACME, b"body", "meaning")
    assert repeats.find(ACME, b"body") == "meaning"
    assert repeats.find(ACME, b"body ") is None


def test_nobody_finds_what_another_caller_said() -> None:
    repeats = Repeats[str]()
    repeats.keep(ACME, b"body", "meaning")
    for other in (Tenant("rival", "key-1"), Tenant("acme", "key-2")):
        assert repeats.find(other, b"body") is None


def test_a_caller_whose_rights_may_have_changed_is_checked_anew() -> None:
    repeats = Repeats[str]()
    repeats.keep(ACME, b"body", "meaning")
    assert repeats.find(msgspec.structs.replace(ACME, tiers=("fast",)), b"body") is None
    assert repeats.find(ACME, b"body") is None


def test_it_is_bounded_and_what_is_said_again_stays() -> None:
    repeats = Repeats[int]()
    for number in range(MAX_KEPT + 1):
        repeats.keep(ACME, b"%d" % number, number)
        assert repeats.find(ACME, b"0") == 0
    assert repeats.find(ACME, b"1") is None
    repeats.keep(ACME, b"x" * (MAX_BODY_BYTES + 1), -1)
    assert repeats.find(ACME, b"x" * (MAX_BODY_BYTES + 1)) is None
    assert len(repeats._kept) == MAX_KEPT
