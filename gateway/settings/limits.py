"""What a tenant may use, unless it has limits of its own."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.settings.row import setting


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    tenant_requests_per_minute: int = setting(
        0,
        "Requests a tenant may make in a minute, unless it has a limit of its own (docs/limits.md); 0 = unlimited.",
        minimum=0,
    )
    tenant_tokens_per_minute: int = setting(
        0, "Tokens, of prompts and answers, that a tenant may use in a minute; 0 = unlimited.", minimum=0
    )
    tenant_concurrent_streams: int = setting(
        0, "Answers that a tenant may have running at once; 0 = unlimited.", minimum=0
    )
    tenant_monthly_tokens: int = setting(
        0, "Tokens that a tenant may use in a calendar month (UTC); 0 = unlimited.", minimum=0
    )
