"""The keys of remembered answers in Redis. The braces keep a tenant's keys on one node of a cluster."""

from __future__ import annotations

ANSWERS = "tidegate:answers:"  # all that is remembered lies there


def index_name(tenant_id: str) -> str:
    """Of the tenant's entries by age."""
    return f"{ANSWERS}{{{tenant_id}}}"


def entry_name(tenant_id: str, digest: str) -> str:
    return f"{index_name(tenant_id)}:{digest}"


def book_names(tenant_id: str) -> tuple[str, str, str]:
    """The keys of `answers.lua`: the index, the entries' sizes, and when they run out."""
    index = index_name(tenant_id)
    return index, f"{index}/sizes", f"{index}/ends"
