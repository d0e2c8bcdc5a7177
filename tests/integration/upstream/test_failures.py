"""Ways in which another server can fail: their kinds, their limits in time, the circuit."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from gateway.errors import (
    CircuitOpen,
    PromptTooLong,
    TidegateError,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.types import Delta, Inquiry
from tests.fakes.engines import PASSAGES
from tests.fakes.openai_server import FakeOpenAi
from tests.integration.api.conftest import free_port
from tests.integration.upstream.stand import KEY, WAIT_S, Stand, text_of, until


@pytest.mark.parametrize(
    ("knobs", "kind", "result"),
    [
        ({"status": 500, "error": {"error": {"message": "boom"}}}, UpstreamUnavailable, "upstream_unavailable"),
        ({"status": 401, "error": f"bad key {KEY}"}, UpstreamUnavailable, "upstream_unavailable"),
        ({"status": 302, "headers": {"location": "http://127.0.0.1:1/"}}, UpstreamUnavailable, "upstream_unavailable"),
        ({"status": 429}, UpstreamOverloaded, "upstream_overloaded"),
        ({"status": 400, "error": {"error": {"message": "no such parameter"}}}, UpstreamError, "upstream_error"),
        ({"status": 400, "error": {"error": {"code": "context_length_exceeded"}}}, PromptTooLong, "prompt_too_long"),
        ({"content_type": "text/html"}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b"data: {oops\n\n"}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b"data: \xff\xfe\n\n"}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b"x" * 2_000_000}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b": nothing\n\n" * 500_000}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b""}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"raw": b"data: [DONE]\n\n"}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"finish_reason": None}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"cut_at": 0}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"cut_at": 3}, UpstreamProtocolError, "upstream_protocol_error"),
        ({"event_at": (3, '{"error":{"code":500}}')}, UpstreamUnavailable, "upstream_unavailable"),
        ({"event_at": (2, '{"error":{"code":429}}')}, UpstreamOverloaded, "upstream_overloaded"),
        ({"close_after": 0}, UpstreamUnavailable, "upstream_unavailable"),
    ],
    ids=lambda value: str(value)[:44] if isinstance(value, dict) else "",
)  # fmt: skip
async def test_every_way_to_fail_is_told_by_its_kind_and_counted(
    stand: Stand, knobs: dict[str, Any], kind: type[TidegateError], result: str
) -> None:
    for name, value in knobs.items():
        setattr(stand.fake, name, value)
    with pytest.raises(TidegateError) as raised:
        await stand.write()
    assert type(raised.value) is kind
    assert stand.results == [result]
    assert KEY not in raised.value.detail + raised.value.message
    assert "127.0.0.1" not in raised.value.message


async def test_an_answer_that_breaks_off_has_given_what_came(stand: Stand) -> None:
    stand.fake.cut_at = 3
    got: list[Delta] = []

    async def read() -> None:
        async for delta in stand.generator.answer(Inquiry(question="What?"), PASSAGES, timeout_s=5):
            got.append(delta)

    with pytest.raises(UpstreamProtocolError):
        await read()
    assert text_of(got) == "A tide gate holds back the surge [1]"


async def test_a_server_that_is_not_there_is_unavailable(standing: Callable[..., Stand]) -> None:
    stand = standing(base_url=f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(UpstreamUnavailable, match="'large' is not available"):
        await stand.write()
    await stand.client.close()


@pytest.mark.parametrize(
    ("fields", "knobs"),
    [
        ({"first_token_s": WAIT_S}, {"delay_s": 60}),
        ({"first_token_s": WAIT_S}, {"first_delay_s": 60}),
        ({"first_token_s": WAIT_S}, {"gap_s": 0.05, "comments": True, "texts": [""] * 1000}),
        ({"between_tokens_s": WAIT_S}, {"stall_at": 2}),
        ({}, {"delay_s": 60}),
    ],
    ids=["head", "first", "comments are no tokens", "between", "the request's own time"],
)
async def test_each_wait_has_its_end(
    fake: FakeOpenAi, standing: Callable[..., Stand], fields: dict[str, float], knobs: dict[str, Any]
) -> None:
    for name, value in knobs.items():
        setattr(fake, name, value)
    stand = standing(**fields)
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await stand.write(timeout_s=20 if fields else WAIT_S)
    assert WAIT_S * 0.9 < time.monotonic() - began < WAIT_S + 2
    await asyncio.wait_for(fake.left.wait(), 2)  # the server is not left working for nobody
    await stand.client.close()


async def test_a_callers_own_short_time_says_nothing_of_the_server(
    fake: FakeOpenAi, standing: Callable[..., Stand]
) -> None:
    fake.delay_s = 60
    stand = standing()
    for _ in range(4):  # three failures open the circuit
        with pytest.raises(UpstreamTimeout) as raised:
            await stand.write(timeout_s=0.05)
    assert raised.value.code == "request_timeout"
    assert (stand.generator.state(), stand.results) == ("closed", ["request_timeout"] * 4)
    await stand.client.close()
    stand = standing(first_token_s=0.05)
    for _ in range(3):
        with pytest.raises(UpstreamTimeout) as raised:
            await stand.write()
    assert (stand.generator.state(), raised.value.code) == ("open", "upstream_timeout")
    await stand.client.close()


async def test_a_slow_answer_is_no_timeout_while_it_moves_nor_while_we_are_slow(
    fake: FakeOpenAi, standing: Callable[..., Stand]
) -> None:
    wait_s = 1.5  # so that a busy machine's stalls are no timeouts
    stand = standing(first_token_s=wait_s, between_tokens_s=wait_s)
    fake.gap_s, fake.reasoning = wait_s / 3, ["hm", "hm", "hm"]
    assert text_of(await stand.write()) == "A tide gate holds back the surge [1]."
    fake.gap_s = 0
    got = []
    async for delta in stand.generator.answer(Inquiry(question="What?"), PASSAGES, timeout_s=20):
        got.append(delta)
        if len(got) <= 2:
            await asyncio.sleep(wait_s * 1.2)
    assert text_of(got) == "A tide gate holds back the surge [1]."
    await stand.client.close()


async def test_failures_open_the_circuit_and_one_good_try_closes_it(stand: Stand) -> None:
    stand.fake.status = 503
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable):
            await stand.write()
    asked = len(stand.fake.requests)
    with pytest.raises(CircuitOpen) as refused:
        await stand.write()
    with pytest.raises(CircuitOpen):
        stand.generator.check()
    assert (len(stand.fake.requests), stand.generator.state()) == (asked, "open")
    assert refused.value.delay_s() == 5
    stand.now, stand.fake.status = 5.0, 200
    stand.generator.check()
    assert stand.generator.state() == "half_open"
    assert text_of(await stand.write())
    assert stand.generator.state() == "closed"


@pytest.mark.parametrize(
    "knobs",
    [{"status": 429}, {"status": 400}, {"status": 400, "error": "maximum context length"}],
    ids=["full", "refused", "too long"],
)
async def test_a_full_server_and_bad_requests_open_nothing(stand: Stand, knobs: dict[str, Any]) -> None:
    for name, value in knobs.items():
        setattr(stand.fake, name, value)
    for _ in range(8):
        with pytest.raises(TidegateError):
            await stand.write()
    assert stand.generator.state() == "closed"


async def test_a_caller_who_leaves_the_one_try_lets_the_next_one_in(stand: Stand) -> None:
    stand.fake.status = 500
    for _ in range(3):
        with pytest.raises(UpstreamUnavailable):
            await stand.write()
    stand.now, stand.fake.status, stand.fake.delay_s = 5.0, 200, 60
    task = asyncio.create_task(stand.write())
    await until(lambda: len(stand.fake.requests) == 4)
    with pytest.raises(CircuitOpen):
        stand.generator.check()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    stand.fake.delay_s = 0
    assert text_of(await stand.write())


async def test_retry_after_is_the_servers_own(stand: Stand) -> None:
    stand.fake.status, stand.fake.headers = 429, {"retry-after": "17"}
    with pytest.raises(UpstreamOverloaded) as refused:
        await stand.write()
    assert refused.value.delay_s() == 17
