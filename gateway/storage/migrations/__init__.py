"""Alembic revisions of `gateway.storage.schema`, shipped in the package and run by `Database.migrate`.

A change of the schema is a new module in `versions/` and a new HEAD here. A test holds the tables that the
revisions build to `schema.metadata`, and HEAD to the newest revision.
"""

HEAD = "0006"
