"""What both queues share: the permit, what a request claims, and the wait itself."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Protocol

# How often a waiter hears its position: the nearer its turn, the oftener. Thousands who hear of it every second keep a
# worker busy with nothing else.
TELL_EVERY_S = 1.0
TELL_LATEST_S = 10.0
TELL_SHARE = 0.1  # of the wait that is left
NEWS_SHARE = 0.1  # of an expected wait, by which it differs
UNTOLD_S = 0.1  # a wait of less is over before anybody could read of it
OnWait = Callable[[int, float], object]  # position (1-based), expected wait in seconds


class Moved(Exception):
    """The line that one stood in was dissolved; ask again."""


class Claim(NamedTuple):
    """cost: tokens, what is written counted double. size: bytes kept while it waits.

    has_own_deadline: the deadline is the caller's, who would rather hear now that it cannot be met.
    on_place: told how to make a ticket of the place, as soon as there is one: whoever must leave it through no fault of
    its own comes back with that.
    gives: its answer can be broken off and gone on with later. back: the permit of one to which that happened. It is
    given back, and the claim, which was charged for before, waits at the head of its tenant, bounded by its deadline.
    has_waited: in another line, which was dissolved.
    """

    tenant: str = ""
    cost: int = 1
    size: int = 0
    has_own_deadline: bool = False
    ticket: str = ""
    on_place: Callable[[Callable[[], str]], object] | None = None
    gives: bool = False
    back: Permit | None = None
    has_waited: bool = False

    @property
    def before_ms(self) -> int:
        """How long it had a slot until its answer was broken off; -1 = it was not."""
        return -1 if self.back is None else int(self.back.held_ms)


NO_CLAIM = Claim()


class Permit:
    """The right to have one request in flight. Release it exactly once; a context manager does.

    difference: tokens that it really cost, less its claim's; set it before the release. name: of it, in its line.
    inner: the one that it stands for. before_ms: how long its request had a slot before. clock: monotonic seconds.
    """

    def __init__(
        self,
        release: Callable[[int], None],
        *,
        name: str = "",
        inner: Permit | None = None,
        before_ms: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._release: Callable[[int], None] | None = release
        self.difference = 0
        self.name, self.inner = name, inner
        self._clock, self._since = clock, clock() - max(0, before_ms) / 1000
        self._until = math.inf
        self._tell: Callable[[], object] = _nobody
        self.is_recalled = False
        if inner is not None:
            inner.on_recall(self.recall)

    @property
    def held_ms(self) -> float:
        """How long its request has had a slot, or had one until it was given back."""
        return max(0.0, (min(self._clock(), self._until) - self._since) * 1000)

    @property
    def is_over(self) -> bool:
        return self._release is None

    def recall(self) -> None:
        """Ask the slot back."""
        self.is_recalled = True
        self._tell()

    def on_recall(self, tell: Callable[[], object]) -> None:
        """Whom to tell of it; at once, where it is asked back already."""
        self._tell = tell
        if self.is_recalled:
            tell()

    def end(self) -> None:
        """It is over, and whoever ends it accounts for its slot."""
        self._release, self._until = None, min(self._until, self._clock())

    def release(self) -> None:
        release = self._release
        if release is not None:
            self.end()
            release(self.difference)

    def __enter__(self) -> Permit:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def _nobody() -> None: ...


class Slot:
    """Of one request: the permit that it holds, if any."""

    def __init__(self) -> None:
        self._permit: Permit | None = None
        self._cost = 0

    @property
    def is_held(self) -> bool:
        return self._permit is not None

    @property
    def permit(self) -> Permit | None:
        return self._permit

    @property
    def cost(self) -> int:
        return self._cost

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
    """One place in a line, as its worker knows it. tag: of the place, in its band's tokens, for a ticket that keeps it.
    missed: looks in a row that found no such place, in a line elsewhere."""

    future: asyncio.Future[str]
    position: int = 1
    eta_s: float = 1.0
    tag: int = 0
    missed: int = 0

    def say(self, word: str) -> None:
        """End the wait, if nothing has."""
        if not self.future.done():
            self.future.set_result(word)


def told_again_s(eta_s: float) -> float:
    """Seconds until a waiter hears of its place again."""
    return min(TELL_LATEST_S, max(TELL_EVERY_S, TELL_SHARE * eta_s))


async def stand(
    future: asyncio.Future[str],
    *,
    until: float,
    clock: Callable[[], float],
    where: Callable[[], tuple[int, float]],
    on_wait: OnWait | None,
) -> str:
    """Wait for what the future says, telling the place now and then. Raises: TimeoutError at `until`.

    Who is expected to wait for less than UNTOLD_S hears of it only where it takes longer.
    In a line that stands still it is looked at ever more seldom, and told every TELL_LATEST_S: thousands who hear every
    second that nothing has changed would keep a worker from those for whom something has.
    """
    told, told_at, pause_s = (0, 0.0), -math.inf, 0.0
    may_be_short = True
    while not future.done():
        place, now = where(), clock()
        if may_be_short and place[1] < UNTOLD_S:
            pause_s = UNTOLD_S
        elif _is_news(told, place) or now - told_at >= TELL_LATEST_S:
            if on_wait is not None:
                on_wait(*place)
            told, told_at, pause_s = place, now, told_again_s(place[1])
        else:
            pause_s = min(2 * pause_s, told_at + TELL_LATEST_S - now)
        may_be_short, left_s = False, until - now
        if left_s <= 0:
            raise TimeoutError
        await asyncio.wait((future,), timeout=min(left_s, pause_s))
    return future.result()


def _is_news(told: tuple[int, float], place: tuple[int, float]) -> bool:
    """Whether a place differs from the one that was told: another position, or another wait by a tenth."""
    return told[0] != place[0] or abs(told[1] - place[1]) > NEWS_SHARE * told[1]
