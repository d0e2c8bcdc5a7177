"""Passages of remembered answers once for all receipts of a day, instead of in each of them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "receipt_passages",
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("day", sa.Integer, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", "day", name=op.f("pk_receipt_passages")),
    )
    op.create_index(op.f("ix_receipt_passages_day"), "receipt_passages", ["day"])
    op.add_column("receipts", sa.Column("passages", sa.String(32)))
