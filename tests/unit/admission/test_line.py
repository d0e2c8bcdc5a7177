"""Order within a band when what requests cost was guessed wrong."""

from __future__ import annotations

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


def test_those_behind_one_that_leaves_move_up() -> None:
    """Two tenants by turns; when one of a's leaves, its next stands where that stood."""
    line = FairLine(1, 100, 10**9)
    for name in ("a0", "a1", "b1", "a2", "b2", "a3"):
        line.enter(name, Ask(name[0], 0, 10, 0, 10**9), 0)
    before = list(line.waiting_names())
    line.leave("a1", 1)
    assert list(line.waiting_names()) == [{"a2": "a3", "a1": "a2"}.get(name, name) for name in before[:-1]]


def test_a_ticket_is_never_worse_than_coming_anew() -> None:
    line = flooded(30)
    stale = line.enter("back", Ask("a", 0, 10, 0, 10**9, tag=10**9), 3000)
    fresh = line.enter("new", Ask("b", 0, 10, 0, 10**9), 3000)
    assert stale.position < fresh.position
