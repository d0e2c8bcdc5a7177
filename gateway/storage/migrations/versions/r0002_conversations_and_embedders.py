"""Pages and embedders of chunks, replacement and recipes of files, epochs of attributes; conversations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

FIRST_EMBEDDER = "all-MiniLM-L6-v2"  # what made every vector so far


LongId = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        _long_ids()
    _columns()
    _next_vectors()
    _conversations()
    _completions()


def _long_ids() -> None:
    """PostgreSQL's INTEGER ends at two thousand million chunks ever made."""
    for table in ("chunks", "removals"):
        op.alter_column(table, "id", type_=sa.BigInteger)
        op.execute(f"ALTER SEQUENCE {table}_id_seq AS bigint")


def _columns() -> None:
    op.add_column("collections", _embedder())
    op.add_column("collections", sa.Column("next_embedder", sa.String(64)))
    op.add_column("chunks", sa.Column("page", sa.Integer, nullable=False, server_default="0"))
    op.add_column("chunks", _embedder())
    op.add_column("collection_files", sa.Column("replaces", sa.String(64)))
    op.add_column("collection_files", sa.Column("epoch", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index(op.f("ix_collection_files_epoch"), "collection_files", ["epoch"])
    op.add_column("collection_files", sa.Column("recipe", sa.String(64)))
    op.add_column("collection_files", sa.Column("batch_id", sa.String(64)))
    op.create_index(op.f("ix_collection_files_batch_id"), "collection_files", ["batch_id"])
    for column in ("filename", "sha256"):
        op.create_index(op.f(f"ix_files_{column}"), "files", [column])


def _embedder() -> sa.Column[str]:
    return sa.Column("embedder", sa.String(64), nullable=False, server_default=FIRST_EMBEDDER)


def _next_vectors() -> None:
    op.create_table(
        "next_vectors",
        sa.Column("chunk_id", LongId, nullable=False),
        sa.Column("collection_id", sa.String(64), nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        _key("next_vectors", "chunk_id", "chunks", ondelete="CASCADE"),
        _key("next_vectors", "collection_id", "collections", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("chunk_id", name=op.f("pk_next_vectors")),
    )
    op.create_index(op.f("ix_next_vectors_collection_id"), "next_vectors", ["collection_id"])


def _conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Integer, nullable=False),
        _key("conversations", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conversations")),
    )
    op.create_index(op.f("ix_conversations_tenant_id"), "conversations", ["tenant_id"])
    op.create_table(
        "messages",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("conversation_id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("question", sa.Text),
        sa.Column("annotations", sa.JSON, nullable=False),
        sa.Column("receipt_id", sa.String(64)),
        sa.Column("created_at", sa.Integer, nullable=False),
        _key("messages", "conversation_id", "conversations", ondelete="CASCADE"),
        _key("messages", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messages")),
        sa.UniqueConstraint("conversation_id", "ordinal", name=op.f("uq_messages_conversation_id_ordinal")),
    )
    op.create_index(op.f("ix_messages_conversation_id"), "messages", ["conversation_id"])


def _completions() -> None:
    op.create_table(
        "completions",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("messages", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("metadata", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        _key("completions", "tenant_id", "tenants"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_completions")),
    )
    op.create_index(op.f("ix_completions_tenant_id"), "completions", ["tenant_id"])
    op.create_index(op.f("ix_completions_created_at"), "completions", ["created_at"])


def _key(table: str, column: str, target: str, *, ondelete: str | None = None) -> sa.ForeignKeyConstraint:
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=name, ondelete=ondelete)
