"""The SQL tables: the durable truth. FAISS, caches and Redis can all be rebuilt from here.

Every change of what may be searched happens in one transaction that also takes the next `epoch` from
`corpus_clock`. The clock row is locked until commit, so commit order is epoch order on SQLite and PostgreSQL
alike, and a reader that has seen epoch N needs only `chunks.epoch > N` and `removals.epoch > N`.
"""

from __future__ import annotations

import sqlalchemy as sa

from gateway.types import DEFAULT_EMBEDDER

# SQLite counts up only a column of exactly the type INTEGER, which holds 64 bits there; PostgreSQL's has 32.
LongId = sa.BigInteger().with_variant(sa.Integer, "sqlite")

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _limits() -> list[sa.Column[int]]:
    """Of types.Limits: NULL = not set, 0 = unlimited."""
    return [
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("tokens_per_minute", sa.BigInteger),
        sa.Column("concurrent_streams", sa.Integer),
        sa.Column("monthly_tokens", sa.BigInteger),
    ]


tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("created_at", sa.Integer, nullable=False),  # unix seconds, like every *_at
    *_limits(),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False, unique=True),  # sha256 of a 256-bit random key, hex
    sa.Column("hint", sa.String(16), nullable=False),  # last 4 characters, to recognise it by
    sa.Column("is_admin", sa.Boolean, nullable=False, default=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("revoked_at", sa.Integer),
    *_limits(),
)

# Only of tenants that are limited to some tiers, or have a floor.
tenant_rights = sa.Table(
    "tenant_rights",
    metadata,
    sa.Column("tenant_id", sa.ForeignKey("tenants.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tiers", sa.JSON, nullable=False),  # names; empty = all
    sa.Column("floor", sa.String(32), nullable=False),  # a step of the ladder, `none`, or empty = any
)

collections = sa.Table(
    "collections",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # vs_…
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    sa.Column("epoch", sa.BigInteger, nullable=False, default=0),  # of its last change
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column(
        "embedder", sa.String(64), nullable=False, server_default=DEFAULT_EMBEDDER
    ),  # of what is searched
    sa.Column("next_embedder", sa.String(64)),  # being changed to; its vectors gather in next_vectors
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # file-…
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("filename", sa.String(512), nullable=False, index=True),
    sa.Column("purpose", sa.String(64), nullable=False),
    sa.Column("num_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("created_at", sa.Integer, nullable=False),
)

# A file in a collection, and at once the ingest queue: rows `in_progress` without a lease are work to do.
collection_files = sa.Table(
    "collection_files",
    metadata,
    sa.Column("collection_id", sa.ForeignKey("collections.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("file_id", sa.ForeignKey("files.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column(
        "status", sa.String(16), nullable=False, index=True
    ),  # in_progress, completed, failed, cancelled
    sa.Column("error_code", sa.String(64)),
    sa.Column("error_message", sa.String(1000)),
    sa.Column("attributes", sa.JSON, nullable=False, default=dict),
    sa.Column("num_chunks", sa.Integer, nullable=False, default=0),
    sa.Column("chunks_done", sa.Integer, nullable=False, default=0),  # progress while in_progress
    sa.Column("usage_bytes", sa.BigInteger, nullable=False, default=0),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column(
        "lease_until", sa.Float, nullable=False, default=0.0
    ),  # unix seconds; a dead worker's lease runs out
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column(
        "replaces", sa.String(64)
    ),  # an older file, which leaves the collection as this one becomes searchable
    sa.Column(
        "epoch", sa.BigInteger, nullable=False, server_default="0", index=True
    ),  # of the last change of its attributes
    sa.Column("recipe", sa.String(64)),  # how its chunks were cut: equal bytes and recipe give equal chunks
    sa.Column("batch_id", sa.String(64), index=True),  # of the files that were attached in one call
)

chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("id", LongId, primary_key=True, autoincrement=True),
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("collection_id", sa.ForeignKey("collections.id", ondelete="CASCADE"), nullable=False),
    sa.Column("file_id", sa.ForeignKey("files.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("start_char", sa.Integer, nullable=False),
    sa.Column("end_char", sa.Integer, nullable=False),
    sa.Column("heading", sa.String(500), nullable=False, default=""),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # float32 little-endian, unit length
    sa.Column("epoch", sa.BigInteger, nullable=False, index=True),
    sa.Column("page", sa.Integer, nullable=False, server_default="0"),  # 1-based; 0 = the format has no pages
    sa.Column(
        "embedder", sa.String(64), nullable=False, server_default=DEFAULT_EMBEDDER
    ),  # what made the vector
    sa.UniqueConstraint("collection_id", "file_id", "ordinal"),
    sqlite_autoincrement=True,  # an id in a receipt must never come to mean another chunk
)

# Vectors of a collection's next embedder, built beside those that are searched until all chunks have one.
next_vectors = sa.Table(
    "next_vectors",
    metadata,
    sa.Column("chunk_id", sa.ForeignKey("chunks.id", ondelete="CASCADE"), primary_key=True),
    sa.Column(
        "collection_id", sa.ForeignKey("collections.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("vector", sa.LargeBinary, nullable=False),  # as in chunks, of the next embedder's length
)

removals = sa.Table(
    "removals",
    metadata,
    sa.Column("id", LongId, primary_key=True, autoincrement=True),
    sa.Column("epoch", sa.BigInteger, nullable=False, index=True),
    sa.Column("tenant_id", sa.String(64), nullable=False),
    sa.Column("collection_id", sa.String(64), nullable=False),
    sa.Column("file_id", sa.String(64)),  # NULL = the whole collection
    sqlite_autoincrement=True,
)

corpus_clock = sa.Table(
    "corpus_clock",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # always 1
    sa.Column("epoch", sa.BigInteger, nullable=False),
)

conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # conv_…
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Column("updated_at", sa.Integer, nullable=False),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # msg_…
    sa.Column(
        "conversation_id", sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("role", sa.String(16), nullable=False),  # system, user, assistant
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("question", sa.Text),  # of a user's message: what was searched for in its place
    sa.Column("annotations", sa.JSON, nullable=False, default=list),  # of an answer: its citations
    sa.Column("receipt_id", sa.String(64)),  # of an answer
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.UniqueConstraint("conversation_id", "ordinal"),
)

# Answers that the caller asked to keep (`store: true`).
completions = sa.Table(
    "completions",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),  # chatcmpl-…
    sa.Column("tenant_id", sa.ForeignKey("tenants.id"), nullable=False, index=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("messages", sa.Text, nullable=False),  # JSON: what was asked
    sa.Column("body", sa.Text, nullable=False),  # JSON: the completion object
    sa.Column("metadata", sa.JSON, nullable=False, default=dict),
    sa.Column("created_at", sa.Integer, nullable=False, index=True),
)

receipts = sa.Table(
    "receipts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("tenant_id", sa.String(64), nullable=False, index=True),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("body", sa.Text, nullable=False),  # JSON of types.Receipt
    sa.Column("created_at", sa.Integer, nullable=False, index=True),
    sa.Column("passages", sa.String(32)),  # the digest of its passages, where they stand in receipt_passages
)

# Passages of answers that are given many times: once a day, for all receipts of that day.
receipt_passages = sa.Table(
    "receipt_passages",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(32), primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, index=True),  # of the receipts: created_at / 86,400
    sa.Column("body", sa.Text, nullable=False),  # JSON
)

# What the answer cache has learned of each topic (gateway/caching/kept_topics.py).
cache_topics = sa.Table(
    "cache_topics",
    metadata,
    sa.Column("tenant_id", sa.String(64), primary_key=True),
    sa.Column("digest", sa.String(32), primary_key=True),  # of the tier and the collections
    sa.Column("tier", sa.String(64), nullable=False),
    sa.Column("collections", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),  # of what counts mean
    sa.Column("counts", sa.Text, nullable=False),  # JSON of threshold.Counts
    sa.Column("updated_at", sa.Integer, nullable=False, index=True),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("request_id", sa.String(64), primary_key=True),  # a request is billed once
    sa.Column("tenant_id", sa.String(64), nullable=False, index=True),
    sa.Column("key_id", sa.String(64), nullable=False),
    sa.Column("tier", sa.String(64), nullable=False),
    sa.Column("prompt_tokens", sa.Integer, nullable=False),
    sa.Column("completion_tokens", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Integer, nullable=False),
    sa.Index(None, "tenant_id", "created_at"),  # a month of one tenant
)
