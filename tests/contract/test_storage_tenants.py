"""Nothing of another tenant is seen or changed, and no text of a caller is more than an unknown id."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from gateway.errors import InvalidRequest, NotFound
from gateway.storage import catalog, ledger
from tests.contract.storing import (
    everything,
    ingest,
    new_collection,
    new_file,
)

STRANGE = {
    "nul": "\0",
    "nul inside": "a\0b",
    "surrogate": "\ud800",
    "long": "x" * 10_000,
    "empty": "",
    "quote": "'; --",
}
_BY_BOTH = {"attach_file", "attach_files", "get_attachment", "update_attributes", "detach_file"}
_REEMBEDDING = {"start_reembedding", "cancel_reembedding", "reembedding_progress"}
_BY_COLLECTION = {"get_collection", "update_collection", "delete_collection", "list_attachments"} | _BY_BOTH
_BY_COLLECTION |= _REEMBEDDING
_BY_FILE = {"get_file", "delete_file"} | _BY_BOTH


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_strange_id_is_one_that_is_not_there(conn: sa.Connection, strange: str) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    ingest(conn, collection_id, "file-a", "one")
    before = everything(conn)
    for names, place in ((_BY_COLLECTION, (strange, "file-a")), (_BY_FILE, (collection_id, strange))):
        calls = calls_of(*place)
        for name in sorted(names):
            with contextlib.suppress(NotFound):
                assert not calls[name](conn, "default"), name
    assert everything(conn) == before


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
def test_a_strange_cursor_or_ref_is_refused_like_an_unknown_one(conn: sa.Connection, strange: str) -> None:
    collection_id = new_collection(conn)
    for end in ("after", "before"):
        with pytest.raises(InvalidRequest, match=end):
            catalog.list_collections(conn, "default", limit=2, **{end: strange})
        with pytest.raises(InvalidRequest, match=end):
            catalog.list_attachments(conn, "default", collection_id, limit=2, **{end: strange})
    with pytest.raises(InvalidRequest, match="after"):
        catalog.list_files(conn, "default", limit=2, after=strange)
    assert catalog.list_files(conn, "default", purpose=strange, limit=2) == ([], False)
    with pytest.raises(NotFound):
        catalog.find_collections(conn, "default", [collection_id, strange])
    assert ledger.get_receipt(conn, "default", strange) is None


def calls_of(collection_id: str, file_id: str) -> dict[str, Callable[[sa.Connection, str], Any]]:
    """Every catalog function that takes a tenant, called for a collection and a file."""
    attached = (collection_id, file_id)
    return {
        "get_collection": lambda conn, tenant: catalog.get_collection(conn, tenant, collection_id),
        "find_collections": lambda conn, tenant: catalog.find_collections(conn, tenant, ["docs"]),
        "list_collections": lambda conn, tenant: catalog.list_collections(conn, tenant, limit=9)[0],
        "update_collection": lambda conn, tenant: catalog.update_collection(
            conn, tenant, collection_id, name="stolen"
        ),
        "delete_collection": lambda conn, tenant: catalog.delete_collection(conn, tenant, collection_id),
        "get_file": lambda conn, tenant: catalog.get_file(conn, tenant, file_id),
        "list_files": lambda conn, tenant: catalog.list_files(conn, tenant, limit=9)[0],
        "delete_file": lambda conn, tenant: catalog.delete_file(conn, tenant, file_id),
        "attach_file": lambda conn, tenant: catalog.attach_file(conn, tenant, *attached, {"by": tenant}),
        "attach_files": lambda conn, tenant: catalog.attach_files(
            conn, tenant, collection_id, [file_id], {"by": tenant}
        ),
        "get_attachment": lambda conn, tenant: catalog.get_attachment(conn, tenant, *attached),
        "list_attachments": lambda conn, tenant: catalog.list_attachments(
            conn, tenant, collection_id, limit=9
        )[0],
        "update_attributes": lambda conn, tenant: catalog.update_attributes(
            conn, tenant, *attached, {"by": tenant}
        ),
        "detach_file": lambda conn, tenant: catalog.detach_file(conn, tenant, *attached),
        "start_reembedding": lambda conn, tenant: catalog.start_reembedding(conn, tenant, collection_id, "b"),
        "cancel_reembedding": lambda conn, tenant: catalog.cancel_reembedding(conn, tenant, collection_id),
        "reembedding_progress": lambda conn, tenant: catalog.reembedding_progress(
            conn, tenant, [collection_id]
        ),
    }


@pytest.mark.parametrize("name", sorted(calls_of("", "")))
def test_a_foreign_tenant_gets_and_changes_nothing(conn: sa.Connection, name: str) -> None:
    collection_id = new_collection(conn)
    new_file(conn, "file-a")
    ingest(conn, collection_id, "file-a", "secret")
    if "reembedding" in name:
        catalog.start_reembedding(conn, "default", collection_id, "a")
    before = everything(conn)
    call = calls_of(collection_id, "file-a")[name]
    with contextlib.suppress(NotFound):
        assert not call(conn, "other")
    assert everything(conn) == before
    assert call(conn, "default"), "the owner must get something, or the test proves nothing"


def test_every_catalog_function_with_a_tenant_is_tried_with_a_foreign_one() -> None:
    functions = {
        name
        for name in catalog.__all__
        if inspect.isfunction(getattr(catalog, name))
        and "tenant_id" in inspect.signature(getattr(catalog, name)).parameters
    }
    assert functions - set(calls_of("", "")) == {"create_collection", "create_file"}
