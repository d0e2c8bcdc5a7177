"""What the cache's benchmark computes from its rows, and the traces and questions that it makes."""

from __future__ import annotations

from perf.cache import ailments, day, edit, eviction, hits, peer, tenants
from perf.cache.day import Arm, Line, Measured
from perf.cache.edit import Asked, Edit
from perf.cache.peer import Told
from perf.cache_pairs import Pair
from perf.eval_reader import Corpus, Labelled
from perf.rows import Row

CORPUS = Corpus(
    ["Harbours"],
    ["The lock in Old Amsterdam was built by Jan van der Meer in 1564, not by Piet Hein."],
    [Labelled("Who built the lock in Old Amsterdam?", 0, ("Jan van der Meer",))],
)


def test_zipf_asks_the_first_rank_most() -> None:
    ranks = eviction.zipf(100, 20_000, seed=1)
    counts = [int((ranks == rank).sum()) for rank in (0, 1, 9)]
    assert counts[0] > 1.7 * counts[1] > 1.7 * counts[2]
    assert 0 <= ranks.min() <= ranks.max() < 100


def test_lru_lets_the_oldest_go() -> None:
    store = eviction.Lru(2)
    for key in ("a", "b"):
        store.put(key, 1)
    assert store.get("a")
    store.put("c", 1)
    assert [store.get(key) for key in ("a", "b", "c")] == [True, False, True]


def test_every_policy_is_asked_the_same_traces() -> None:
    size = eviction.Size(num_keys=200, num_asked=2000)
    one, other = eviction.traces(size), eviction.traces(size)
    assert {name: list(trace) for name, trace in one.items()} == {k: list(v) for k, v in other.items()}
    assert eviction.run(size).keys() == {"zipf", "shifting", "scan", "mixed"}


def test_entries_of_many_sizes_are_met_by_question_and_by_byte() -> None:
    sizes = eviction.mixed_sizes(500)
    assert (min(sizes) >= eviction.LEAST_BYTES, max(sizes) <= eviction.MOST_BYTES) == (True, True)
    assert max(sizes) > 10 * sorted(sizes)[250]
    trace, size_of = ["a", "b", "a", "b", "a"], {"a": 30, "b": 80}
    met = eviction.rates(eviction.Lru(100), iter(trace), lambda key: size_of[key])
    assert met == (0.0, 0.0)  # either of them leaves no room for the other
    met = eviction.rates(eviction.Lru(110), iter(trace), lambda key: size_of[key])
    assert met == (3 / 5, 140 / 250)
    row = eviction.run_mixed(eviction.Size(num_keys=500, num_asked=5000))["0.1"]
    assert row["ours"] > row["lru"]


def test_a_day_asks_in_other_words_now_and_then() -> None:
    asked = day.day(CORPUS, day.Size(num_asked=400, num_meanings=20))
    texts = day.meanings(CORPUS, 20)
    assert "Who built the lock in Old Amsterdam?" in texts
    own = sum(text == texts[rank] for rank, text in asked)
    assert 220 < own < 350
    assert asked == day.day(CORPUS, day.Size(num_asked=400, num_meanings=20))


def test_a_day_is_told_by_its_verdicts() -> None:
    lines = [Line(0, "miss", 9000, 9500), *[Line(0, "exact", 1000, 1100)] * 3]
    used = {"tritonserver": 1.0, "stub embed": 1.0, "gateway": 5.0}
    without = Arm([Line(0, "off", 20_000, 21_000)], 1.0, {"tritonserver": 1.0, "stub embed": 1.0})
    told = day.summarise(Measured(Arm(lines, 2.0, used), without))
    assert told["hit_rate"] == 0.75
    assert told["engine_work_saved"] == 0.75
    assert told["ttft_ms"]["exact"]["p50"] == 1.0
    assert told["ttft_ms"]["without"]["p50"] == 20.0


def test_a_pair_is_right_with_its_own_answer_or_with_that_to_its_very_words() -> None:
    same = Pair("Who won?", "Please tell me: Who won?", "frame", True, 0)
    other = Pair("Who won?", "Who lost?", "antonym", False, 0)
    assert Told(same, "Who won?").is_right
    assert not Told(same, "Who lost?").is_right
    assert not Told(other, "Who won?").is_right
    assert Told(other, "Who lost").is_right
    shares = peer._shares([Told(same, "Who won?"), Told(same, ""), Told(other, "Who won?"), Told(other, "")])
    assert (shares["hits"], shares["false_hits"], shares["crossed"]) == (0.5, 0.5, 0.0)


def test_an_edit_counts_what_ended_and_what_should_have() -> None:
    asked = [
        Asked(1, 9.0, 9.1, "exact", "old"),
        Asked(1, 10.2, 10.3, "exact", "old"),
        Asked(1, 10.5, 10.6, "miss", ""),
        Asked(1, 12.5, 12.6, "miss", "new"),
        Asked(2, 11.0, 11.1, "miss", ""),
        Asked(3, 13.1, 13.2, "exact", ""),
    ]
    told = edit._figures(Edit(1, 9.9, 10.0, 12.0, [1, 3, 4], 0, asked), [1, 2, 3, 4])
    assert (told["stale_s"], told["fresh_s"]) == (0.2, 0.6)
    assert (told["ended"], told["ended_needlessly"]) == (2, 1)
    assert (told["not_ended"], told["not_asked"], told["kept_wrongly"]) == (1, 1, 0)


def test_every_document_names_a_thing_of_its_own() -> None:
    assert len({edit.question_of(number) for number in range(1000)}) == 1000
    assert edit.keeper_of(7) != edit.keeper_of(7, 1)
    assert edit.keeper_of(7) in edit.text_of(7)


def test_stacks_are_told_by_function() -> None:
    main, other = "thread (1): MainThread", "thread (2): blocking_0"
    stacks = (
        f"{main};run (a/b.py:3);give (gateway/x.py:10) 3\n{main};run (a/b.py:3);give (gateway/x.py:11) 1\n"
        f"{main};run (a/b.py:4) 4\n{other};wait (c/d.py:1) 90\n"
    )
    assert hits.shares(stacks) == {"a/b.py run": 1.0, "gateway/x.py give": 0.5}


def test_every_probed_question_is_another() -> None:
    assert len(set(tenants.questions(250))) == 250


def test_what_an_ailment_adds_is_told_beside_redis_well() -> None:
    arms = [(f"{name}/{kind}", 0.01) for name in ailments.AILMENTS for kind in ("hit", "miss")]
    found = [Row(arm, 0, 1.0, 1.0, 1.0 + took_s) for arm, took_s in arms for _ in range(99)]
    found += [Row("frozen/hit", 0, 1.0, 1.5, 1.75)] * 2  # it went out late, which counts
    told = ailments.summarise(found)["latency_ms"]
    assert told["frozen/hit"]["added_p50"] == told["full/miss"]["added_p99"] == 0.0
    assert (told["frozen/hit"]["added_p99"], told["frozen/hit"]["max"]) == (740.0, 750.0)
