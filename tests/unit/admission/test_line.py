"""Order within a band when what requests cost was guessed wrong."""

from __future__ import annotations

from itertools import pairwise

from gateway.admission.line import Ask, FairLine

GUESS, REAL = 2000, 150


def flooded(num_served: int) -> FairLine:
    """One slot, one tenant with forty in line, each of which turns out far cheaper than thought."""
    line = FairLine(1, 100, 10**9)
    for number in range(40 + num_served):
        line.enter(f"{number:03d}", Ask("flooder", 0, GUESS, 0, 10**9), number)
    for number in range(num_served):
        line.settle("flooder", 0, REAL - GUESS)
        line.release(f"{number:03d}", 100, 1000 + number)
    return line


def test_a_modest_tenant_does_not_stand_behind_the_flood() -> None:
    line = flooded(30)
    for number, tenant in enumerate("abc"):
        assert line.enter(f"9{number}", Ask(tenant, 0, GUESS, 0, 10**9), 2000).position == 1 + number


def test_a_tenants_requests_keep_their_order_when_earlier_ones_turn_out_cheaper() -> None:
    line = flooded(30)
    line.enter("late", Ask("flooder", 0, GUESS, 0, 10**9), 2000)
    assert line.waiting_names()[-1] == "late"
    assert list(line.waiting_names()[:-1]) == sorted(line.waiting_names()[:-1])


def test_a_tenant_is_not_charged_for_one_that_leaves() -> None:
    """Two tenants by turns; when one of a's leaves, its next stands where that stood."""
    line = FairLine(1, 100, 10**9)
    for name in ("a0", "a1", "b1", "a2", "b2", "a3"):
        line.enter(name, Ask(name[0], 0, 100, 0, 10**9), 0)
    assert list(line.waiting_names()) == ["b1", "a1", "b2", "a2", "a3"]
    line.leave("a1", 1)
    assert list(line.waiting_names()) == ["b1", "a2", "b2", "a3"]


def test_a_tenant_that_was_idle_gets_no_credit_for_it() -> None:
    """One has been served ten times while the other asked for nothing; from now on they go by turns."""
    line = FairLine(1, 100, 10**9)
    line.enter("idle", Ask("idle", 0, 100, 0, 10**9), 0)  # known, and not charged for what it did not ask for
    for number in range(16):
        line.enter(f"a{number:02d}", Ask("busy", 0, 100, 0, 10**9), 0)
    line.release("idle", 10, 10)
    for number in range(10):
        line.release(f"a{number:02d}", 10, 10)
    for number in range(5):
        line.enter(f"b{number:02d}", Ask("idle", 0, 100, 0, 10**9), 20)
    names = line.waiting_names()
    assert [name[0] for name in names[:6]].count("b") == 3
    assert names[0].startswith(("a", "b"))
    assert all(one[0] != other[0] for one, other in pairwise(names[1:8]))


def test_a_long_line_is_not_rewritten_at_every_end() -> None:
    line = FairLine(1, 2000, 10**9)
    for number in range(1001):
        line.enter(f"{number:04d}", Ask("a", 0, 100, 0, 10**9), 0)
    before = list(line._order)
    for _ in range(10):
        line.settle("a", 0, -50)
    assert line._order == before
    for _ in range(30):
        line.settle("a", 0, -50)
    assert line._order != before


def test_a_ticket_is_never_worse_than_coming_anew() -> None:
    line = flooded(30)
    stale = line.enter("back", Ask("a", 0, 10, 0, 10**9, tag=10**9), 3000)
    fresh = line.enter("new", Ask("b", 0, 10, 0, 10**9), 3000)
    assert stale.position < fresh.position


def served_at_once(headroom_share: float) -> FairLine:
    """Sixteen slots after a light tenant has been seen and a heavy one has asked for forty."""
    line = FairLine(16, 100, 10**9, headroom_share)
    line.enter("light-0", Ask("light", 0, 10, 0, 10**9), 0)
    line.release("light-0", 5, 5)
    for number in range(40):
        line.enter(f"{number:03d}", Ask("heavy", 0, 10, 0, 10**9), 10)
    return line


def test_a_heavy_tenant_leaves_the_last_slots_to_light_ones() -> None:
    line = served_at_once(0.25)
    assert len(line.held) == 12
    assert [line.enter(f"light-{n}", Ask("light", 0, 10, 0, 10**9), 20).status for n in range(1, 6)] == [
        *["granted"] * 4,
        "waiting",
    ]
    line.release("000", 30, 40)
    assert line.moves().granted == ["light-5"]  # before the 28 of the heavy one
    line.release("001", 30, 40)
    assert line.moves().granted == []
    for number in range(1, 6):
        line.release(f"light-{number}", 30, 50)
    assert len(line.held) == 12


def test_a_tenant_that_is_alone_has_all_slots() -> None:
    line = served_at_once(0.25)
    line.enter("again", Ask("heavy", 0, 10, 0, 10**9), 40_000)  # the light one was last seen long ago
    assert len(line.held) == 16
    assert len(served_at_once(0.0).held) == 16


def test_equal_tenants_have_all_slots_together() -> None:
    line = FairLine(16, 100, 10**9, 0.25)
    for number in range(40):
        line.enter(f"{number:03d}", Ask("abcd"[number % 4], 0, 10, 0, 10**9), 0)
    assert len(line.held) == 16


def test_who_waited_in_another_line_is_refused_for_its_deadline_alone() -> None:
    line = FairLine(1, 2, 100)
    for number in range(3):
        line.enter(f"{number}", Ask("a", 0, 10, 50, 10**9), 0)
    assert line.enter("3", Ask("a", 0, 10, 50, 10**9), 0).status == "full"
    for number in range(4, 7):
        assert line.enter(f"{number}", Ask("a", 0, 10, 50, 10**9, has_waited=True), 0).status == "waiting"
    better = line.enter("7", Ask("b", 0, 10, 50, 10**9), 0)  # takes one place, and cuts the line no further
    assert (better.status, line.moves().displaced, len(line)) == ("waiting", {"6": 50}, 5)
    line.release("0", 1000, 1000)  # so long does a slot take
    assert line.enter("8", Ask("a", 0, 10, 0, 1100), 1000).status == "too_long"
    assert line.enter("9", Ask("a", 0, 10, 0, 1100, has_waited=True), 1000).status == "waiting"
    late = Ask("a", 0, 10, 0, 1100, finish_ms=1100, has_waited=True)
    assert line.enter("99", late, 1000).status == "infeasible"


def test_thousands_whose_wait_is_over_are_passed_at_once() -> None:
    line = FairLine(1, 10_000, 10**9)
    for number in range(3000):
        line.enter(f"{number:04d}", Ask(f"tenant{number}", 0, 10, 0, 100 if number else 10**9), 0)
    line.enter("last", Ask("last", 0, 10, 0, 10**9), 0)
    line.release("0000", 10, 5000)
    assert line.moves().granted == ["last"]


def test_who_leaves_from_a_long_line_rewrites_it_once_for_many() -> None:
    """Those behind move up by all that left before them, and by no more; those before stay."""
    line = FairLine(1, 2000, 10**9)
    for number in range(1001):
        line.enter(f"{number:04d}", Ask("a", 0, 100, 0, 10**9), 0)
    before = {name: tag for tag, name in line._order}
    for number in range(500, 515):
        line.leave(f"{number:04d}", 1)
    assert {name: tag for tag, name in line._order}.items() <= before.items()
    newcomer = line.enter("b", Ask("b", 0, 100, 0, 10**9), 1)
    assert newcomer.position == 1, "whoever is of another tenant notices nothing"
    for number in range(515, 530):
        line.leave(f"{number:04d}", 1)
    after = {name: tag for tag, name in line._order}
    assert after["0499"] == before["0499"]
    assert after["0600"] == before["0600"] - 1600, "sixteen make a sixty-fourth of the backlog"
    for number in range(530, 1001):
        line.leave(f"{number:04d}", 1)
    for number in range(1, 500):
        line.leave(f"{number:04d}", 1)
    assert line.enter("last", Ask("a", 0, 100, 0, 10**9), 1).tag == 100, "nobody is charged for who left"


def test_a_line_of_thousands_is_rewritten_for_a_sixteenth() -> None:
    line = FairLine(1, 5000, 10**9)
    for number in range(3001):
        line.enter(f"{number:04d}", Ask("a", 0, 100, 0, 10**9), 0)
    before = line.waiting_names()[-1], line._order[-1][0]
    for number in range(1, 176):
        line.leave(f"{number:04d}", 1)
    assert (line.waiting_names()[-1], line._order[-1][0]) == before
    for number in range(176, 200):
        line.leave(f"{number:04d}", 1)
    assert line._order[-1][0] == before[1] - 17_700


def test_who_comes_with_a_ticket_and_leaves_moves_nobody_up() -> None:
    """Its place was before its tenant's others, which it has not pushed back: else tickets would buy places."""
    line = FairLine(1, 100, 10**9)
    for number in range(4):
        for tenant in "ox":
            line.enter(f"{number}{tenant}", Ask(tenant, 0, 100, 0, 10**9), 0)
    before = list(line.waiting_names())
    for number in range(3):
        line.enter(f"9{number}", Ask("x", 0, 1000, 0, 10**9, tag=0), 0)
        line.leave(f"9{number}", 1)
    assert list(line.waiting_names()) == before


def test_whose_place_is_taken_keeps_it_as_it_was_then() -> None:
    """The guesses were far too high, so all of its tenant stand nearer than when they came."""
    line = FairLine(1, 39, 10**9)
    for number in range(40):
        line.enter(f"{number:03d}", Ask("flooder", 0, GUESS, 0, 10**9), 0)
    for _ in range(4):
        line.settle("flooder", 0, REAL - GUESS)
    tag = line.tag("039")
    assert tag < 39 * GUESS
    line.enter("modest", Ask("modest", 0, GUESS, 0, 10**9), 0)
    assert line.moves().displaced == {"039": tag}
    refused = line.enter("late", Ask("flooder", 0, GUESS, 0, 10**9), 0)
    assert (refused.status, refused.tag) == ("full", tag + GUESS)  # its ticket is good for a place behind


def test_it_is_told_whether_the_line_is_full_or_has_no_room_for_so_much() -> None:
    line = FairLine(1, 2, 100)
    line.enter("0", Ask("a", 0, 10, 0, 10**9), 0)
    assert line.enter("1", Ask("a", 0, 10, 101, 10**9), 0).status == "large"
    line.enter("2", Ask("a", 0, 10, 60, 10**9), 0)
    assert line.enter("3", Ask("a", 0, 10, 60, 10**9), 0).status == "large"
    line.enter("4", Ask("a", 0, 10, 10, 10**9), 0)
    assert line.enter("5", Ask("a", 0, 10, 60, 10**9), 0).status == "full"
