"""Which of two small copies keeps more: told by questions that one of them alone has."""

from __future__ import annotations

from gateway.caching.duel import LOOK_EVERY, ByAge, Duel


class Fixed:
    """Has what it is told to have."""

    def __init__(self, *, has: bool) -> None:
        self.has = has

    def ask(self, key: str, num_bytes: int) -> bool:
        return self.has


def test_by_age_the_oldest_goes_and_the_bytes_are_bounded() -> None:
    copy = ByAge(100)
    assert not copy.ask("a", 40)
    assert not copy.ask("b", 40)
    assert copy.ask("a", 40)
    assert not copy.ask("c", 40)
    assert copy.ask("a", 40)
    assert not copy.ask("b", 40)
    assert not copy.ask("large", 101)
    assert not copy.ask("a", 40)


def test_the_one_that_has_more_leads_after_a_look() -> None:
    one, other = Fixed(has=True), Fixed(has=False)
    duel = Duel(one, other, 1)
    for _ in range(LOOK_EVERY):
        duel.ask("a", 1)
    assert duel.leader == 0
    one.has, other.has = False, True
    for _ in range(3 * LOOK_EVERY):
        duel.ask("a", 1)
    assert duel.leader == 1


def test_a_lead_by_chance_changes_nothing() -> None:
    one, other = Fixed(has=False), Fixed(has=False)
    duel = Duel(one, other, 1)
    for number in range(20 * LOOK_EVERY):
        other.has = number % 32 == 0  # two questions of each look
        one.has = number % 64 == 1
        duel.ask("a", 1)
    assert duel.leader == 0


def test_one_key_in_so_many_is_sampled() -> None:
    duel = Duel(ByAge(1), ByAge(1), 8)
    assert sum(map(duel.is_sampled, range(800))) == 100
