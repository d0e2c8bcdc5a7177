"""An answer under way: begun again without sending anything twice, and its steps in bytes."""

from __future__ import annotations

import msgspec
import pytest

from gateway.errors import UpstreamUnavailable
from gateway.pipeline.flight_mail import (
    Ask,
    Done,
    Gone,
    Leave,
    Mail,
    MailRefused,
    StepReader,
    Steps,
    StepWriter,
    addressed,
    opened,
)
from gateway.pipeline.shared_work import Chosen, Sent, SharedWork, Step, Told, Waiting
from gateway.types import Citation, Outcome, Receipt, Usage
from tests.fakes.engines import PASSAGES

CITATION = Citation(passage=1, start=0, end=3, text="one")
OTHER = Citation(passage=2, start=0, end=3, text="two")
RECEIPT = Receipt(id="chatcmpl-1", created=1, outcome=Outcome.FAILED, tier="fast", passages=[{"n": 1}])


def work() -> SharedWork:
    return SharedWork(Receipt(id="chatcmpl-1", created=1, outcome=Outcome.FAILED, tier="fast", cache="miss"))


async def send(shared: SharedWork, *texts: str, citations: list[Citation] | None = None) -> None:
    for text in texts:
        await shared.delta(text, citations or [], PASSAGES)


def sent(shared: SharedWork) -> list[Sent]:
    return [step for step in shared.flight.log if isinstance(step, Sent)]


def text(shared: SharedWork) -> str:
    return "".join(step.text for step in sent(shared))


@pytest.mark.parametrize(
    "again", [["one ", "two ", "three"], ["one two three"], ["o", "ne two th", "ree"]], ids=repr
)
async def test_what_was_sent_is_not_sent_twice_however_it_is_cut(again: list[str]) -> None:
    shared = work()
    await send(shared, "one ", "tw")
    shared.begin_again()
    await send(shared, *again)
    shared.check_whole()
    assert text(shared) == "one two three"
    assert shared.was_begun_again


async def test_citations_that_were_sent_are_not_sent_twice() -> None:
    shared = work()
    await send(shared, "one [1]", citations=[CITATION])
    shared.begin_again()
    await send(shared, "one [1] two [2]", citations=[CITATION, OTHER])
    assert [step.citations for step in sent(shared)] == [[CITATION], [OTHER]]


async def test_another_text_or_a_shorter_one_is_refused() -> None:
    shared = work()
    await send(shared, "one two")
    shared.begin_again()
    with pytest.raises(UpstreamUnavailable):
        await send(shared, "one five")
    shared.begin_again()
    await send(shared, "one")
    with pytest.raises(UpstreamUnavailable):
        shared.check_whole()


async def test_work_that_had_sent_nothing_begins_like_any_other() -> None:
    shared = work()
    await shared.stage("retrieving")
    shared.begin_again()
    await send(shared, "one")
    shared.check_whole()
    assert (text(shared), shared.was_begun_again, shared.made.tier, shared.made.cache) == (
        "one",
        False,
        "fast",
        "miss",
    )


STEPS: list[Step] = [
    Chosen("fast"),
    Told("retrieving"),
    Waiting(3, 1.5),
    Sent("one [1]", [CITATION], PASSAGES, Usage(7, 0), "miss"),
    Sent(" two", [], PASSAGES, Usage(7, 2), "miss"),
]


async def test_steps_come_out_as_they_went_in_and_passages_go_once() -> None:
    writer, reader = StepWriter(), StepReader()
    written = [writer.write(step) for step in STEPS]
    assert [reader.read(data) for data in written] == STEPS
    assert len(bytes(written[4])) < 60


MAILS: list[Mail] = [Ask("w", 3, 5, True), Leave("w"), Steps(2, []), Done(5, RECEIPT), Gone()]


@pytest.mark.parametrize("mail", MAILS, ids=lambda mail: type(mail).__name__)
def test_mail_comes_out_as_it_went_in(mail: Mail) -> None:
    assert opened(addressed("worker:7", mail)) == ("worker:7", mail)


@pytest.mark.parametrize("data", [b"", b"x", b"\xff\n\x80", b"w:1\n\x91\xa3ask", "text", 7, None], ids=repr)
def test_what_is_no_mail_is_refused(data: object) -> None:
    with pytest.raises(MailRefused):
        opened(data)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x91\xa5other", msgspec.msgpack.encode(["sent", "x", [CITATION], None, [1, 2], "miss"])],
    ids=["empty", "unknown", "a citation of no passage"],
)
def test_what_is_no_step_is_refused(data: bytes) -> None:
    with pytest.raises(MailRefused):
        StepReader().read(msgspec.Raw(data))
