"""Ids of requests."""

from __future__ import annotations

import re
import time

from gateway.request_id import RequestIds


def test_ids_are_new_each_time_and_grow_with_time() -> None:
    ids, before = RequestIds(), time.time_ns() // 1_000_000
    made = [ids.next() for _ in range(3 * RequestIds.DRAWN_AT_ONCE)]
    after = time.time_ns() // 1_000_000
    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"chatcmpl-[0-9a-f]{32}", each) for each in made)
    moments = [int(each[9:21], 16) for each in made]
    assert moments == sorted(moments)
    assert before <= moments[0] <= moments[-1] <= after


def test_two_workers_share_no_randomness() -> None:
    first, second = RequestIds(), RequestIds()
    assert {first.next()[21:] for _ in range(100)}.isdisjoint({second.next()[21:] for _ in range(100)})
