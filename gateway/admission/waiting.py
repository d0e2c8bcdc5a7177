"""What both queues share: the permit, what a request claims, and the wait itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

TELL_EVERY_S = 1.0  # how often a waiter hears its position
OnWait = Callable[[int, float], object]  # position (1-based), expected wait in seconds


class Moved(Exception):
    """The line that one stood in was dissolved; ask again."""


class Claim(NamedTuple):
    """cost: tokens, what is written counted double. size: bytes kept while it waits.

    has_own_deadline: the deadline is the caller's, who would rather hear now that it cannot be met.
    on_place: told how to make a ticket of the place, as soon as there is one: whoever must leave it through no fault of
    its own comes back with that.
    """

    tenant: str = ""
    cost: int = 1
    size: int = 0
    has_own_deadline: bool = False
    ticket: str = ""
    on_place: Callable[[Callable[[], str]], object] | None = None


NO_CLAIM = Claim()


class Permit:
    """The right to have one request in flight. Release it exactly once; a context manager does.

    difference: tokens that it really cost, less its claim's; set it before the release.
    """

    def __init__(self, release: Callable[[int], None]) -> None:
        self._release: Callable[[int], None] | None = release
        self.difference = 0

    def release(self) -> None:
        if self._release is not None:
            release, self._release = self._release, None
            release(self.difference)

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


class Slot:
    """Of one request: the permit that it holds, if any."""

    def __init__(self) -> None:
        self._permit: Permit | None = None
        self._cost = 0

    @property
    def is_held(self) -> bool:
        return self._permit is not None

    def take(self, permit: Permit, cost: int) -> None:
        """cost: what the claim said (tokens)."""
        self._permit, self._cost = permit, cost

    def settle(self, real: int) -> None:
        """What it cost in the end (tokens), for the tenant's place the next time."""
        if self._permit is not None:
            self._permit.difference = real - self._cost

    def close(self) -> None:
        if self._permit is not None:
            self._permit.release()
            self._permit = None


class Queue(Protocol):
    """The slots of a tier and the line in front of them."""

    @property
    def limit(self) -> int: ...

    @property
    def inflight(self) -> int: ...

    @property
    def num_waiting(self) -> int: ...

    @property
    def is_crowded(self) -> bool: ...

    def num_ahead(self, band: str) -> int: ...

    def eta_s(self, position: int) -> float: ...

    def resize(self, limit: int) -> None: ...

    def check(self, band: str = "interactive", claim: Claim = NO_CLAIM) -> None: ...

    async def acquire(
        self, *, band: str, deadline: float, on_wait: OnWait | None = None, claim: Claim = NO_CLAIM
    ) -> Permit: ...


@dataclass
class Waiter:
    """One place in a line elsewhere, as its worker knows it. missed: looks in a row that found no such place."""

    future: asyncio.Future[str]
    position: int = 1
    eta_s: float = 1.0
    missed: int = 0

    def say(self, word: str) -> None:
        """End the wait, if nothing has."""
        if not self.future.done():
            self.future.set_result(word)


async def stand(
    future: asyncio.Future[str],
    *,
    until: float,
    clock: Callable[[], float],
    where: Callable[[], tuple[int, float]],
    on_wait: OnWait | None,
) -> str:
    """Wait for what the future says, telling the place once a second. Raises: TimeoutError at `until`."""
    while not future.done():
        if on_wait is not None:
            on_wait(*where())
        left_s = until - clock()
        if left_s <= 0:
            raise TimeoutError
        await asyncio.wait((future,), timeout=min(left_s, TELL_EVERY_S))
    return future.result()
