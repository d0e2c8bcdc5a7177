"""What workers write to each other about an answer that one makes and others read: messages, and steps in bytes.

A channel of Redis may be written to by others: what is no message of ours is refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.pipeline.shared_work import Chosen, Sent, Step, Told, Waiting
from gateway.types import Citation, Passage, Receipt, Usage


class MailRefused(ValueError):
    """No message of ours."""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag="ask"):
    """Of a reader, who asks often: for steps from `at`, as many as there is `room`. again: what was sent was lost."""

    reader: str
    at: int = 0
    room: int = 0
    again: bool = False


class Leave(msgspec.Struct, frozen=True, array_like=True, tag="leave"):
    """The reader wants no more."""

    reader: str


class Steps(msgspec.Struct, frozen=True, array_like=True, tag="steps"):
    """The steps from `at`; none = there are no new ones, but the work goes on."""

    at: int
    steps: list[msgspec.Raw] = []


class Done(msgspec.Struct, frozen=True, array_like=True, tag="done"):
    """The work is done, after `at` steps, and made that receipt."""

    at: int
    made: Receipt


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """There is no such work, or it has failed."""


Mail = Ask | Leave | Steps | Done | Gone

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Mail).decode


class _WireSent(msgspec.Struct, frozen=True, array_like=True, tag="sent"):
    """passages: None = those of the one before."""

    text: str
    citations: list[Citation]
    passages: list[Passage] | None
    used: Usage
    cache: str


class _WireChosen(msgspec.Struct, frozen=True, array_like=True, tag="chosen"):
    tier: str


class _WireTold(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    stage: str


class _WireWaiting(msgspec.Struct, frozen=True, array_like=True, tag="waiting"):
    position: int
    eta_s: float


_decode_step = msgspec.msgpack.Decoder(_WireSent | _WireChosen | _WireTold | _WireWaiting).decode


def written(mail: Mail) -> bytes:
    return _encode(mail)


def addressed(flight: str, mail: Mail) -> bytes:
    return flight.encode() + b"\n" + _encode(mail)


def opened(data: Any) -> tuple[str, Mail]:
    """The flight that it is about, and what is said. Raises: MailRefused."""
    try:
        flight, _, body = bytes(data).partition(b"\n")
        return flight.decode("ascii"), _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
        raise MailRefused(str(error)) from error


class StepWriter:
    """Steps of one flight for one reader. Passages, which are most of the bytes, go once."""

    def __init__(self) -> None:
        self._passages: list[Passage] | None = None

    def write(self, step: Step) -> msgspec.Raw:
        match step:
            case Sent():
                new = None if step.passages is self._passages else step.passages
                self._passages = step.passages
                return msgspec.Raw(_encode(_WireSent(step.text, step.citations, new, step.used, step.cache)))
            case Chosen():
                return msgspec.Raw(_encode(_WireChosen(step.tier)))
            case Told():
                return msgspec.Raw(_encode(_WireTold(step.stage)))
            case Waiting():
                return msgspec.Raw(_encode(_WireWaiting(step.position, step.eta_s)))


class StepReader:
    """The other end of a StepWriter."""

    def __init__(self) -> None:
        self._passages: list[Passage] = []

    def read(self, data: msgspec.Raw) -> Step:
        """Raises: MailRefused."""
        try:
            wire = _decode_step(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MailRefused(str(error)) from error
        match wire:
            case _WireChosen():
                return Chosen(wire.tier)
            case _WireTold():
                return Told(wire.stage)
            case _WireWaiting():
                return Waiting(wire.position, wire.eta_s)
        if wire.passages is not None:
            self._passages = wire.passages
        if any(not 0 < each.passage <= len(self._passages) for each in wire.citations):
            raise MailRefused("a citation of no passage")
        return Sent(wire.text, wire.citations, self._passages, wire.used, wire.cache)
