"""Tokens into text, one at a time: whole characters only, and no text of a stop string or behind it. Pure.

What has been given out depends on the ids alone, never on how they came. So a stream that broke off is continued by
feeding the ids that it had made, unheard, to a fresh one.
"""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

UNFINISHED = "\ufffd"  # how the decoder shows a character that lacks bytes
MAX_HELD_IDS = 16  # without one whole character: then the bytes are no text, and waiting on would never end


class TextStream:
    """The text of one output. stop: texts that end it; the earliest one that shows counts."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.is_stopped = False
        self._pieces = _Pieces(tokenizer)
        self._stop = tuple(stop)
        self._held = ""  # may turn out to be the beginning of a stop string

    def feed(self, token_id: int) -> str:
        """The text that this token makes certain; often "". Nothing comes any more once `is_stopped`."""
        return "" if self.is_stopped else self._cut(self._pieces.feed(token_id))

    def finish(self) -> str:
        """What was held back, now that no more tokens come. Bytes that are no whole character are left out."""
        text = "" if self.is_stopped else self._cut(self._pieces.finish())
        held, self._held = self._held, ""
        return text + held

    def _cut(self, piece: str) -> str:
        """The piece up to a stop string, and without what may become one."""
        if not piece or not self._stop:
            return piece
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, not all of it."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class _Pieces:
    """Incremental decoding. A token is decoded beside the ones before it, because that may change its text.

    Special tokens have no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # those of the last piece, as context, and all since
        self._num_context = 0
        self._context = ""

    def feed(self, token_id: int) -> str:
        self._ids.append(token_id)
        text: str = self._tokenizer.decode(self._ids)
        num_new = len(self._ids) - self._num_context
        is_whole = len(text) > len(self._context) and not text.endswith(UNFINISHED)
        if not is_whole and num_new < MAX_HELD_IDS:
            return ""
        piece = text[len(self._context) :]
        del self._ids[: self._num_context]
        self._num_context = len(self._ids)
        self._context = self._tokenizer.decode(self._ids)
        return piece

    def finish(self) -> str:
        return str(self._tokenizer.decode(self._ids))[len(self._context) :].rstrip(UNFINISHED)
