"""The fields of our Milvus tables, and pymilvus itself."""

from __future__ import annotations

import os
import sys
from typing import Any

from gateway.retrieval.milvus_rows import MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_TEXT_BYTES


def library() -> Any:
    """pymilvus. Its import takes seconds, binds a socket, and would take `.env` files into our environment."""
    if "pymilvus" not in sys.modules:
        os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")
    import pymilvus

    return pymilvus


def _new_schema() -> Any:
    return library().MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)


def state_schema() -> Any:
    schema, types = _new_schema(), library().DataType
    schema.add_field("id", types.INT64, is_primary=True)
    schema.add_field("body", types.VARCHAR, max_length=MAX_TEXT_BYTES)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=2)  # Milvus wants one
    return schema


def chunk_schema(dim: int, *, is_lexical: bool) -> Any:
    """is_lexical: with BM25 over the terms."""
    pymilvus = library()
    schema, types = _new_schema(), pymilvus.DataType
    schema.add_field("id", types.INT64, is_primary=True)
    schema.add_field("tenant", types.VARCHAR, max_length=MAX_KEY_BYTES, is_partition_key=True)
    schema.add_field("collection", types.VARCHAR, max_length=MAX_KEY_BYTES)
    schema.add_field("file", types.VARCHAR, max_length=MAX_KEY_BYTES)
    for name in ("epoch", "ordinal", "start_char", "end_char", "page"):
        schema.add_field(name, types.INT64)
    for name in ("filename", "heading"):
        schema.add_field(name, types.VARCHAR, max_length=MAX_NAME_BYTES)
    schema.add_field("text", types.VARCHAR, max_length=MAX_TEXT_BYTES)
    analyzed: dict[str, Any] = {"enable_analyzer": True, "analyzer_params": {"tokenizer": "standard"}}
    schema.add_field("terms", types.VARCHAR, max_length=MAX_TEXT_BYTES, **(analyzed if is_lexical else {}))
    schema.add_field("attributes", types.JSON)
    schema.add_field("vector", types.FLOAT_VECTOR, dim=dim)
    if is_lexical:
        schema.add_field("sparse", types.SPARSE_FLOAT_VECTOR)
        schema.add_function(
            pymilvus.Function(
                name="bm25",
                function_type=pymilvus.FunctionType.BM25,
                input_field_names=["terms"],
                output_field_names=["sparse"],
            )
        )
    return schema
