"""How events share writes: each write of the gateway is one chunk of HTTP's chunked encoding, read here raw."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from gateway.api.sse import FEW_STREAMS, WINDOW_S
from tests.integration.api.conftest import Gateway

PAUSE_S = 4 * WINDOW_S


async def writes(gateway: Gateway) -> list[list[str]]:
    """The texts in each write of one streamed answer; an event without text counts as ''."""
    body = {"model": "fast", "stream": True, "messages": [{"role": "user", "content": "What?"}]}
    content = json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    head += f"Authorization: Bearer {gateway.keys['acme']}\r\nContent-Type: application/json\r\n\r\n"
    writer.write(head.encode() + content)
    await reader.readuntil(b"\r\n\r\n")
    out = []
    while size := int(await reader.readline(), 16):
        frame = (await reader.readexactly(size + 2)).decode()
        data = [line[6:] for line in frame.splitlines() if line.startswith("data: {")]
        texts = [
            choice["delta"].get("content", "") for event in data for choice in json.loads(event)["choices"]
        ]
        out.append(texts)
    writer.close()
    return out


@pytest.fixture
def crowded(gateway: Gateway) -> Iterator[Gateway]:
    """As if many other streams were open."""
    gateway.services.lifecycle.inflight += FEW_STREAMS
    yield gateway
    gateway.services.lifecycle.inflight -= FEW_STREAMS


async def test_among_many_streams_events_that_follow_closely_share_a_write(crowded: Gateway) -> None:
    crowded.fast.texts = [f"t{number}" for number in range(20)]
    seen = await writes(crowded)
    assert seen[0] == ["t0"]
    assert [text for texts in seen for text in texts if text] == crowded.fast.texts
    assert len(seen) <= 5  # 20 would be one each


async def test_among_few_a_write_holds_what_the_tier_gives_in_one_breath(gateway: Gateway) -> None:
    gateway.fast.texts = [f"t{number}" for number in range(20)]
    gateway.fast.in_one_breath, gateway.fast.gap_s = 5, WINDOW_S / 5
    seen = [texts for texts in await writes(gateway) if texts != [""]]
    assert [len(texts) for texts in seen] == [1, 4, 5, 5, 5]


async def test_among_few_an_event_waits_for_no_other(gateway: Gateway) -> None:
    """Also where they come faster than the window of many streams is wide."""
    gateway.fast.texts, gateway.fast.gap_s = ["a", "b", "c", "d"], WINDOW_S / 5
    assert [texts for texts in await writes(gateway) if texts != [""]] == [["a"], ["b"], ["c"], ["d"]]


async def test_an_event_after_a_pause_does_not_wait(gateway: Gateway) -> None:
    gateway.fast.texts, gateway.fast.gap_s = ["a", "b", "c"], PAUSE_S
    assert [texts for texts in await writes(gateway) if texts != [""]] == [["a"], ["b"], ["c"]]


async def test_a_lone_event_inside_the_window_is_written_when_it_ends(crowded: Gateway) -> None:
    """The answer goes on long after it: nothing later pushes it out."""
    crowded.fast.texts, crowded.fast.gap_s = ["a", "b"], 0.0
    crowded.fast.hold_s = 5 * PAUSE_S
    task = asyncio.create_task(writes(crowded))
    assert [texts for texts in await task if texts != [""]] == [["a"], ["b"]]


async def test_a_stream_larger_than_the_window_keeps_its_order(gateway: Gateway) -> None:
    gateway.fast.texts = [f"{number:05}" + "x" * 500 for number in range(400)]
    seen = [text for texts in await writes(gateway) for text in texts if text]
    assert seen == gateway.fast.texts


@pytest.mark.parametrize("fail_at", [1, 5], ids=str)
async def test_what_waits_is_written_before_an_error(gateway: Gateway, fail_at: int) -> None:
    gateway.fast.texts = [f"t{number}" for number in range(9)]
    gateway.fast.fail_with, gateway.fast.fail_at = RuntimeError("boom"), fail_at
    reply = await gateway.ask(stream=True)
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    texts = [event["choices"][0]["delta"]["content"] for event in events if "choices" in event]
    assert texts == gateway.fast.texts[:fail_at]
    assert events[-1]["error"]["code"] == "internal_error"
