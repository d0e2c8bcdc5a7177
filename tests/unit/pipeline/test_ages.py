"""How long a remembered answer lives, and who makes it anew before it runs out."""

from __future__ import annotations

import random
from pathlib import Path

from gateway.pipeline.remember import TTL_SPREAD
from gateway.pipeline.route import Route
from gateway.tiering.tiers import builtin_tiers
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.memory import MemoryBench

QUESTION = "What is a tide gate?"
ROUTE = Route(builtin_tiers(2, 2)[0])


async def test_an_answer_grows_old(tmp_path: Path) -> None:
    now = [1000.0]
    bench = MemoryBench(tmp_path, ttl_s=100, wall=lambda: now[0], chance=lambda: 0.5)
    bench.answers._wall = lambda: now[0]
    await bench.watch.look()
    await bench.ask()
    now[0] = 1080.0
    given = await bench.ask()
    assert (given.cache, given.cache_age_s) == ("exact", 80.0)
    now[0] = 1101.0
    assert (await bench.ask()).cache == "miss"
    bench.close()


async def test_an_answer_lives_as_long_as_its_shortest_collection_says(tmp_path: Path) -> None:
    now = [1000.0]
    lives = {"vs_1": 50.0, "vs_2": 10.0, "vs_3": 500.0}
    bench = MemoryBench(tmp_path, ttl_s=100, ttl_s_of=lives, wall=lambda: now[0], chance=lambda: 0.5)
    bench.answers._wall = lambda: now[0]
    await bench.watch.look()
    bench.retriever.passages = [passage(1, "A gate.", collection_id="vs_3")]
    await bench.ask(collections=["vs_3"])
    bench.retriever.passages = list(PASSAGES)  # of vs_1
    await bench.ask()
    await bench.ask(collections=["vs_1", "vs_2"])
    for at, alive in ((1009.0, [1, 1, 1]), (1011.0, [1, 1, 0]), (1051.0, [1, 0, 0]), (1101.0, [0, 0, 0])):
        now[0] = at
        asked = (["vs_3"], [], ["vs_1", "vs_2"])
        keys = [await bench.memory.recall(bench.request(QUESTION, collections=each), ROUTE) for each in asked]
        assert [int(key is not None and key.entry is not None) for key in keys] == alive, at
    bench.close()


async def test_one_request_makes_a_hot_answer_anew_before_it_runs_out(tmp_path: Path) -> None:
    now, luck = [1000.0], [0.5]
    bench = MemoryBench(tmp_path, ttl_s=100, wall=lambda: now[0], chance=lambda: luck[0])
    bench.answers._wall = lambda: now[0]
    await bench.watch.look()
    await bench.ask()
    now[0], luck[0] = 1095.0, 0.0
    assert (await bench.ask()).cache == "miss"
    now[0], luck[0] = 1110.0, 0.5
    assert (await bench.ask()).cache == "exact"
    bench.close()


async def test_what_was_made_at_once_runs_out_one_after_the_other(tmp_path: Path) -> None:
    """Else all of it would be missed, and made anew, in the same moment."""
    bench = MemoryBench(tmp_path, ttl_s=100, wall=lambda: 1000.0, chance=random.Random(7).random)
    bench.answers._wall = lambda: 1000.0
    await bench.watch.look()
    ends = []
    for number in range(100):
        question = f"What is tide gate number {number}?"
        await bench.ask(question)
        recall = await bench.memory.recall(bench.request(question), ROUTE)
        assert recall is not None
        assert recall.entry is not None
        ends.append(recall.entry.expires - 1000.0)
    assert max(abs(each - 100) for each in ends) <= 100 * TTL_SPREAD
    by_fifth = [sum(90 + 4 * fifth <= each < 94 + 4 * fifth for each in ends) for fifth in range(5)]
    assert min(by_fifth) >= 10, by_fifth  # twenty of a hundred, if they are spread evenly
    bench.close()
