"""A revoked key, or right, of which Redis tells nobody: answers are given while it is believed, not longer."""

from __future__ import annotations

from gateway.api.auth import KEY_TTL_S, Authenticator
from gateway.storage import keys, rights
from tests.integration.api.conftest import Gateway
from tests.integration.api.test_cache_told import remembering

__all__ = ["remembering"]  # the fixture

QUESTION = "What is a tide gate?"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def unheard(gateway: Gateway) -> Clock:
    """The gateway hears of no change; time passes as the clock says."""
    clock = Clock()
    services = gateway.services
    services.auth = Authenticator(services.settings, services.database, clock)
    return clock


async def asked(gateway: Gateway) -> tuple[int, str | None]:
    reply = await gateway.ask(QUESTION)
    return reply.status_code, reply.headers.get("x-tidegate-cache")


async def test_a_revoked_key_is_believed_for_its_time_and_then_gets_no_hit(remembering: Gateway) -> None:
    clock = unheard(remembering)
    assert [await asked(remembering) for _ in range(2)] == [(200, "miss"), (200, "exact")]
    with remembering.services.database.write() as conn:
        for each in keys.list_keys(conn):
            keys.revoke_key(conn, each.id)
    clock.now += KEY_TTL_S - 1
    assert await asked(remembering) == (200, "exact")
    clock.now += 2
    assert await asked(remembering) == (401, None)


async def test_a_revoked_right_too(remembering: Gateway) -> None:
    clock = unheard(remembering)
    assert [await asked(remembering) for _ in range(2)] == [(200, "miss"), (200, "exact")]
    with remembering.services.database.write() as conn:
        rights.set_rights(conn, "acme", tiers=["deep"], floor="")
    clock.now += KEY_TTL_S - 1
    assert await asked(remembering) == (200, "exact")
    clock.now += 2
    assert (await asked(remembering))[0] == 404
