"""What the answer cache has learned of each topic, for all workers and for the next start."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "cache_topics",
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(32), nullable=False),
        sa.Column("tier", sa.String(64), nullable=False),
        sa.Column("collections", sa.JSON, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("counts", sa.Text, nullable=False),
        sa.Column("updated_at", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name=op.f("pk_cache_topics")),
    )
    op.create_index(op.f("ix_cache_topics_updated_at"), "cache_topics", ["updated_at"])
