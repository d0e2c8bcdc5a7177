"""Who makes the answer to a question that is asked in several workers at once: the first one that says so in Redis.

A claim names the flight that leads, and has no lease: a leader that is gone hears nothing, which Redis tells whoever
comes next. Where Redis does not answer nobody leads but each worker alone.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from gateway.caching.entry import Entry, decode
from gateway.caching.key import Key
from gateway.caching.names import entry_name
from gateway.storage.redis_trips import Away, RedisTrips

CHANNEL = "tidegate:flights:"  # and the worker's name: where a worker is told of flights
LIFE_S = 900  # of a claim that nobody took back
LEAST_S = 0.001  # for a claim, however long the cache was waited for

# The answer, if it is there by now; else the flight that leads, if its worker hears of its new reader; else this one's.
_CLAIM = """
local answer = ARGV[6] == '1' and redis.call('GET', KEYS[1])
if answer then return {'answered', answer} end
local leader = redis.call('GET', KEYS[2])
if leader and leader ~= ARGV[3] then
  local worker = string.match(leader, '^(.-):')
  if worker and worker ~= ARGV[2] and redis.call('PUBLISH', ARGV[4] .. worker, leader .. '\\n' .. ARGV[5]) > 0 then
    return {'followed', leader}
  end
end
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[7])
return {'led', ARGV[1]}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class Led(NamedTuple):
    """By this worker. flight: its name; empty where no other worker knows of it."""

    flight: str


class Followed(NamedTuple):
    """Another worker leads."""

    flight: str


class Answered(NamedTuple):
    entry: Entry


Standing = Led | Followed | Answered


def read(reply: Any, key: Key) -> Standing:
    """What Redis has said; alone where it is nothing of ours."""
    try:
        standing, told = reply
        if standing == b"followed":
            return Followed(told.decode("ascii"))
        if standing == b"answered":
            return Answered(decode(told, key))
        return Led(told.decode("ascii"))
    except (TypeError, ValueError, AttributeError):  # an EntryRefused is a ValueError
        return Led("")


def claim_name(key: Key, band: str) -> str:
    return f"{entry_name(key.tenant_id, key.digest)}:flight:{band}"


class Claims:
    """worker: this one's name. greeting: what a leader is told of its new reader."""

    def __init__(self, trips: RedisTrips, worker: str, greeting: bytes) -> None:
        self._trips, self._worker, self._greeting = trips, worker, greeting

    def ask(
        self, key: Key, band: str, mine: str, *, lost: str = "", may_be_answered: bool = True
    ) -> asyncio.Future[Any]:
        """To be read once it is done. mine: the flight that will lead if none does yet. lost: one that is known to be
        gone."""
        names = entry_name(key.tenant_id, key.digest), claim_name(key, band)
        args = (mine, self._worker, lost, CHANNEL, self._greeting, int(may_be_answered), LIFE_S)
        return self._trips.post("EVAL", _CLAIM, 2, *names, *args)

    async def answered(self, asking: asyncio.Future[Any], key: Key, limit_s: float) -> Standing | None:
        """None = not in time. Never raises; alone where Redis does not answer at all, or is not waited for."""
        if not asking.done() and self._trips.is_resting:
            return None
        try:
            await self._trips.reply(asking, limit_s=max(LEAST_S, limit_s))
        except Away:
            if not asking.done():
                return None
        return read(asking.result(), key)

    def release(self, key: Key, band: str, flight: str) -> None:
        """Soon. One that stays behind is found to lead nowhere."""
        if flight:
            self._trips.post("EVAL", _RELEASE, 1, claim_name(key, band), flight)
