"""What the relay benchmark's streams say, so that every client can check every chunk. Pure."""

from __future__ import annotations

NUM_CHUNKS = 64


def chunk(number: int) -> str:
    """Text of one token: its own number, so that a lost, doubled or swapped one shows."""
    return f" w{number:03d}"


CHUNKS = [chunk(number) for number in range(NUM_CHUNKS)]
