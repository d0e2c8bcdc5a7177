"""A checkpoint's chat format without a checkpoint: one token a byte, and a template of two lines a turn."""

from __future__ import annotations


class ByteChat:
    def render(self, messages: list[dict[str, str]]) -> str:
        return "".join(f"<{m['role']}>\n{m['content']}\n" for m in messages) + "<assistant>\n"

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def count_many(self, texts: list[str]) -> list[int]:
        return [len(text.encode()) for text in texts]
