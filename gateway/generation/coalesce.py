"""Puts tokens into messages: each message costs the same, however many tokens it carries. Pure; time is an argument."""

from __future__ import annotations

import msgspec

MS_A_STREAM = 4.0  # by load: longest wait for each stream beyond FEW
MAX_MS = 250.0
FEW_STREAMS = 4


class Message(msgspec.Struct, frozen=True):
    text: str
    token_ids: list[int]


def wait_by_load(num_running: int) -> float:
    """Longest wait in milliseconds: none while few run and a message more matters little."""
    return min(MAX_MS, max(0, num_running - FEW_STREAMS) * MS_A_STREAM)


class Coalescer:
    """One stream's messages. max_wait_ms: longest time that text waits for company; -1 = by load.

    The first text never waits, and tokens without any text wait for some. Whoever feeds it calls `take` when `due_s`
    comes, if text is pending then, and at the end.
    """

    def __init__(self, max_wait_ms: int = -1) -> None:
        self._max_wait_ms = max_wait_ms
        self._text = ""
        self._token_ids: list[int] = []
        self._is_first = True
        self.due_s = 0.0  # on the caller's clock; of the pending text

    @property
    def has_text(self) -> bool:
        return bool(self._text)

    def add(self, text: str, token_ids: list[int], now_s: float, num_running: int) -> None:
        if text and not self._text:
            wait_ms = wait_by_load(num_running) if self._max_wait_ms < 0 else self._max_wait_ms
            self.due_s = now_s if self._is_first else now_s + wait_ms / 1000
            self._is_first = False
        self._text += text
        self._token_ids += token_ids

    def take(self) -> Message:
        """Everything that waits."""
        message = Message(self._text, self._token_ids)
        self._text, self._token_ids = "", []
        return message
