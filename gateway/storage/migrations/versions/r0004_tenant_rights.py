"""Which tiers a tenant may ask for, and how far its answers may be taken down under load."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "tenant_rights",
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("tiers", sa.JSON, nullable=False),
        sa.Column("floor", sa.String(32), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_tenant_rights_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_rights")),
    )
