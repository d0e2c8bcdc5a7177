"""The one error of this package."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used. Both texts together are one sentence without its full stop, fit to print.

    what: is wrong. fix: what to change; may be empty.
    """

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}: {fix}" if fix else what)
        self.what = what
        self.fix = fix
