"""Room in memory: who gets in, who waits, who never blocks the door."""

from __future__ import annotations

import asyncio

from gateway.ingest.room import Place, Room


async def is_in(place: Place) -> bool:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return place.entered.is_set()


async def test_files_that_fit_together_are_in_together() -> None:
    room = Room(10)
    places = [room.place(5) for _ in range(3)]
    waiting = [asyncio.create_task(place.enter()) for place in places]
    assert [await is_in(place) for place in places] == [True, True, False]
    places[0].leave()
    assert await is_in(places[2])
    await asyncio.gather(*waiting)


async def test_a_file_larger_than_the_room_gets_all_of_it() -> None:
    room = Room(10)
    small, large = room.place(1), room.place(1000)
    await small.enter()
    waiting = asyncio.create_task(large.enter())
    assert not await is_in(large)
    small.leave()
    await waiting
    assert not await is_in(room.place(1))


async def test_a_large_file_is_not_overtaken_for_ever() -> None:
    room = Room(10)
    first, large, late = room.place(5), room.place(10), room.place(5)
    await first.enter()
    waiting = [asyncio.create_task(place.enter()) for place in (large, late)]
    assert not await is_in(late)
    first.leave()
    assert (await is_in(large), await is_in(late)) == (True, False)
    large.leave()
    await asyncio.gather(*waiting)


async def test_who_leaves_the_line_lets_the_next_one_in() -> None:
    room = Room(10)
    first, impatient, last = room.place(6), room.place(9), room.place(4)
    await first.enter()
    waiting = asyncio.create_task(impatient.enter())
    assert not await is_in(impatient)
    waiting.cancel()
    impatient.leave()
    await last.enter()
