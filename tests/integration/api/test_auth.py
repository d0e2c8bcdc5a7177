"""Keys and anonymous development access."""

from __future__ import annotations

import pytest

from gateway.settings import Settings
from gateway.storage import keys
from tests.integration.api.conftest import Gateway


@pytest.mark.parametrize(
    "header",
    [
        "Bearer tg-" + "A" * 43,
        "Bearer nope",
        "Basic dXNlcg==",
        "Bearer",
        "Bearer tg-' OR 1=1 --",
        "tg-x",
        "\u00ff",
    ],
    ids=["unknown", "shape", "scheme", "empty", "sql", "no-scheme", "latin"],
)
async def test_a_bad_key_is_401(gateway: Gateway, header: str) -> None:
    reply = await gateway.client.get("/v1/models", headers={"authorization": header.encode("latin-1")})
    assert reply.status_code == 401
    assert reply.json()["error"]["code"] == "invalid_api_key"
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_loopback_without_a_key_is_the_default_tenant(gateway: Gateway) -> None:
    assert (await gateway.client.get("/v1/models")).status_code == 200


async def test_a_remote_caller_behind_the_edge_needs_a_key(gateway: Gateway) -> None:
    headers = {"x-tidegate-peer": "203.0.113.9"}
    assert (await gateway.client.get("/v1/models", headers=headers)).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"host": "rebound.example"},
    ],
    ids=["origin", "cross-site", "rebinding"],
)
async def test_a_web_page_of_another_site_cannot_use_anonymous_access(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    reply = await gateway.client.get("/v1/models", headers=headers)
    assert reply.status_code == 403


async def test_a_revoked_key_stops_working_when_the_message_arrives(gateway: Gateway) -> None:
    assert (await gateway.client.get("/v1/models", headers=gateway.auth())).status_code == 200
    with gateway.services.database.write() as conn:
        row = next(
            each
            for each in keys.list_keys(conn)
            if keys.hash_key(gateway.keys["acme"]) and each.name == "test"
        )
        for each in keys.list_keys(conn):
            keys.revoke_key(conn, each.id)
    assert row.revoked_at is None
    gateway.services.auth.forget_all()
    assert (await gateway.client.get("/v1/models", headers=gateway.auth())).status_code == 401


async def test_with_auth_required_even_loopback_needs_a_key(gateway: Gateway) -> None:
    from gateway.api.auth import Authenticator

    required = Settings(var=gateway.settings.var, auth="required")
    gateway.services.auth = Authenticator(required, gateway.services.database)
    assert (await gateway.client.get("/v1/models")).status_code == 401
    assert (await gateway.client.get("/v1/models", headers=gateway.auth())).status_code == 200


async def test_health_and_page_need_no_key(gateway: Gateway) -> None:
    for path in ("/health/live", "/health/ready", "/"):
        assert (
            await gateway.client.get(path, headers={"x-tidegate-peer": "203.0.113.9"})
        ).status_code == 200, path


async def test_the_page_is_served_under_a_strict_policy(gateway: Gateway) -> None:
    reply = await gateway.client.get("/")
    assert "default-src 'self'" in reply.headers["content-security-policy"]
    again = await gateway.client.get("/", headers={"if-none-match": reply.headers["etag"]})
    assert again.status_code == 304
    assert (await gateway.client.get("/static/../app.py")).status_code == 404
