"""Comparing columns with text that a caller gave."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa


def could_hold(column: sa.Column[Any], text: str) -> bool:
    """Whether any row could have this text: PostgreSQL refuses NUL, no driver encodes a lone surrogate."""
    length = column.type.length if isinstance(column.type, sa.String) else None
    if "\0" in text or (length is not None and len(text) > length):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def equals(column: sa.Column[Any], text: str) -> sa.ColumnElement[bool]:
    """column == text; false, instead of an error of the driver, for text that it can never hold."""
    return column == text if could_hold(column, text) else sa.false()


def among(column: sa.Column[Any], texts: list[str]) -> sa.ColumnElement[bool]:
    """column IN texts, without those that it can never hold."""
    return column.in_([text for text in texts if could_hold(column, text)])
