"""The states of a process and the tasks it holds. Owns: starting -> ready -> draining -> stopped.

Draining begins with a lead: not ready any more, so that balancers turn away, but still taking what they send until
they have. Then new work is refused and what is open may finish.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger("tidegate.lifecycle")


class State(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    STOPPED = "stopped"


class _Arriving(contextlib.AbstractContextManager[None]):
    """One for all requests: a worker holds thousands of them."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def __enter__(self) -> None:
        self._lifecycle.begun()

    def __exit__(self, *_: object) -> None:
        self._lifecycle.ended()


_UNCOUNTED = contextlib.nullcontext()


class Lifecycle:
    """Counts open requests so that a drain can wait for them, and keeps background tasks alive."""

    def __init__(self) -> None:
        self._state = State.STARTING
        self._is_leading = False
        self._followers: list[Callable[[State], None]] = []
        self.inflight = 0  # in work
        self._num_begun = 0  # from their head on, as long as work was taken when it came
        self._arriving = _Arriving(self)
        self._idle = asyncio.Event()
        self._idle.set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def state(self) -> State:
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        self._state = state
        for follower in self._followers:
            follower(state)

    @property
    def takes_work(self) -> bool:
        return self._state is State.READY or self._is_leading

    def on_change(self, follower: Callable[[State], None]) -> None:
        """Tell the follower each state from now on."""
        self._followers.append(follower)

    def __enter__(self) -> Lifecycle:
        self.inflight += 1
        self._idle.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.inflight -= 1
        self._tell_idle()

    def arriving(self) -> contextlib.AbstractContextManager[None]:
        """Around a request from its head on: a drain waits for its body, too, unless it began before the request."""
        return self._arriving if self.takes_work else _UNCOUNTED

    def begun(self) -> None:
        """A request is coming in."""
        self._num_begun += 1
        self._idle.clear()

    def ended(self) -> None:
        self._num_begun -= 1
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self.inflight == 0 and self._num_begun == 0:
            self._idle.set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run a background task; its failure is logged, never swallowed."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)  # a hard reference: the loop keeps only weak ones
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.error("background task %s failed", task.get_name(), exc_info=error)

    async def retire(self, lead_s: float) -> None:
        """Be not ready, and take work for lead_s more. For a process that was not ready there is nobody to tell."""
        if self.state is not State.READY:
            return
        self._is_leading = True
        self.state = State.DRAINING
        await asyncio.sleep(lead_s)

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new work, wait for what is open. True when everything ended in time."""
        self._is_leading = False
        if self.state is not State.STOPPED:
            self.state = State.DRAINING
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning(
                "drain: after %.1f s %d requests still open, %d in work",
                timeout_s,
                self._num_begun,
                self.inflight,
            )
            return False
        return True

    async def stop_tasks(self) -> None:
        """Cancel every background task until it is gone: a library may swallow a cancel (redis-py while connecting)."""
        self.state = State.STOPPED
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks, timeout=0.2)
