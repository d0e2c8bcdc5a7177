"""Limits of tenants and keys; usage found by tenant and time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for table in ("tenants", "api_keys"):
        op.add_column(table, sa.Column("requests_per_minute", sa.Integer))
        op.add_column(table, sa.Column("tokens_per_minute", sa.BigInteger))
        op.add_column(table, sa.Column("concurrent_streams", sa.Integer))
        op.add_column(table, sa.Column("monthly_tokens", sa.BigInteger))
    op.create_index(op.f("ix_usage_tenant_id_created_at"), "usage", ["tenant_id", "created_at"])
