from __future__ import annotations

from collections.abc import Callable

import pytest

from perf.relay_text import CHUNKS
from perf.streams import BrokenStream, check, check_ids, check_joined, texts, unframed
from perf.upstream import prepared

OURS = b"".join(
    b'id: c.%d\ndata: {"delta":{"content":"%b"}}\n\n' % (number, text.encode())
    for number, text in enumerate(CHUNKS, 1)
)
DONE = b"data: [DONE]\n\n"


def test_what_the_upstream_plays_is_what_the_client_expects() -> None:
    check(unframed(b"".join(prepared(CHUNKS))), CHUNKS)


def test_texts_are_decoded_as_json() -> None:
    assert texts(b'{"content": "a\\"b\\u00e9"}{"content":""}{"content":"\xc3\xa9\\n"}') == ['a"bé', "é\n"]


@pytest.mark.parametrize(
    "body",
    [
        OURS,
        OURS.replace(b" w007", b"", 1) + DONE,
        OURS.replace(b" w007", b" w008", 1) + DONE,
        OURS + OURS[-60:] + DONE,
        OURS.replace(b' w007"}}', b' w007 w008"}}', 1).replace(b'"content":" w008"', b'"content":""', 1)
        + DONE,
    ],
    ids=["no end", "lost", "wrong", "doubled", "two in one"],
)
def test_a_stream_that_is_not_exactly_the_expected_one_is_refused(body: bytes) -> None:
    check(OURS + DONE, CHUNKS)
    with pytest.raises(BrokenStream):
        check(body, CHUNKS)


def test_texts_may_share_events_where_that_is_allowed() -> None:
    shared = OURS.replace(b' w007"}}', b' w007 w008"}}', 1).replace(b'"content":" w008"', b'"content":""', 1)
    check_joined(shared + DONE, CHUNKS)
    with pytest.raises(BrokenStream):
        check_joined(shared.replace(b" w009", b"") + DONE, CHUNKS)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body.replace(b"id: c.3\n", b"", 1),
        lambda body: body.replace(b"id: c.3\n", b"id: c.4\n", 1),
        lambda body: body.replace(b"id: c.1\n", b"id: c.0\n", 1),
    ],
    ids=["missing", "twice", "from 0"],
)
def test_event_ids_count_from_one_without_a_gap(spoil: Callable[[bytes], bytes]) -> None:
    check_ids(OURS)
    with pytest.raises(BrokenStream):
        check_ids(spoil(OURS))


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"],
    ids=["refused", "not chunked"],
)
def test_any_other_answer_than_a_chunked_200_is_refused_with_its_words(answer: bytes) -> None:
    with pytest.raises(BrokenStream, match=r"HTTP/1\.1"):
        unframed(answer)
