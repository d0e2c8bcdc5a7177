"""How often a waiter hears of its place."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from gateway.admission.waiting import stand, told_again_s


@pytest.mark.parametrize(
    ("eta_s", "again_s"),
    [(-1.0, 1.0), (0.0, 1.0), (10.0, 1.0), (30.0, 3.0), (100.0, 10.0), (3600.0, 10.0)],
)
def test_whoever_is_near_hears_every_second_and_nobody_less_than_every_ten(
    eta_s: float, again_s: float
) -> None:
    assert told_again_s(eta_s) == again_s


class Line:
    """A place in line, on a clock that jumps to the end of each wait. moves: position and wait from a second on."""

    def __init__(self, moves: dict[float, tuple[int, float]]) -> None:
        self._moves, self.now, self.told = moves, 0.0, list[tuple[float, int, float]]()

    def where(self) -> tuple[int, float]:
        return [place for since, place in sorted(self._moves.items()) if since <= self.now][-1]

    def hear(self, position: int, eta_s: float) -> None:
        self.told.append((self.now, position, eta_s))

    async def play(self, monkeypatch: pytest.MonkeyPatch, until: float) -> list[tuple[float, int, float]]:
        async def wait(_futures: object, timeout: float) -> None:
            self.now += timeout

        monkeypatch.setattr("gateway.admission.waiting.asyncio.wait", wait)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        with pytest.raises(TimeoutError):
            await stand(future, until=until, clock=lambda: self.now, where=self.where, on_wait=self.hear)
        return self.told


async def test_a_line_that_stands_still_is_told_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await Line({0: (7, 1.0)}).play(monkeypatch, 99.0)
    assert len(told) == 10
    assert [later[0] - one[0] for one, later in pairwise(told)] == [10.0] * 9


async def test_what_changes_is_told_within_a_second_while_it_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await Line({float(second): (20 - second, 20.0 - second) for second in range(20)}).play(
        monkeypatch, 18.0
    )
    waits = [later[0] - one[0] for one, later in pairwise(told)]
    assert max(waits) <= 2.0
    assert told[-1][1] <= 3


async def test_another_wait_at_the_same_place_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await Line({0: (3, 4.0), 2.5: (3, 8.0)}).play(monkeypatch, 9.0)
    assert [(position, eta_s) for _, position, eta_s in told] == [(3, 4.0), (3, 8.0)]


async def test_a_wait_that_nobody_would_notice_is_told_only_where_it_takes_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await Line({0: (1, 0.05)}).play(monkeypatch, 0.15) == [(0.1, 1, 0.05)]
    monkeypatch.undo()
    line, served = Line({0: (1, 0.05)}), asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(served.set_result, "granted")
    said = await stand(served, until=9.0, clock=lambda: 0.0, where=line.where, on_wait=line.hear)
    assert (said, line.told) == ("granted", [])


async def test_a_wait_that_is_noticed_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await Line({0: (1, 0.1)}).play(monkeypatch, 0.05) == [(0.0, 1, 0.1)]
