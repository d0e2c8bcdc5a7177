"""Bounds what the files that are worked on hold in memory."""

from __future__ import annotations

import asyncio
from collections import deque


class Room:
    """Room for files of so many bytes together; one that is larger gets all of it. First come, first served."""

    def __init__(self, num_bytes: int) -> None:
        self._size = num_bytes
        self._taken = 0
        self._line: deque[Place] = deque()

    def place(self, num_bytes: int) -> Place:
        return Place(self, min(num_bytes, self._size))

    async def enter(self, place: Place) -> None:
        self._line.append(place)
        self._let_in()
        await place.entered.wait()

    def leave(self, place: Place) -> None:
        if place.entered.is_set():
            self._taken -= place.num_bytes
        elif place in self._line:
            self._line.remove(place)
        self._let_in()

    def _let_in(self) -> None:
        while self._line and self._taken + self._line[0].num_bytes <= self._size:
            place = self._line.popleft()
            self._taken += place.num_bytes
            place.entered.set()


class Place:
    """One file's share of the room. `leave` once, whether or not `enter` came to its end."""

    def __init__(self, room: Room, num_bytes: int) -> None:
        self.num_bytes = num_bytes
        self.entered = asyncio.Event()
        self._room = room

    async def enter(self) -> None:
        await self._room.enter(self)

    def leave(self) -> None:
        self._room.leave(self)
