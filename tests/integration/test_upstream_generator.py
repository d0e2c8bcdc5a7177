"""A tier on another server, over a real socket to a server with knobs (tests/fakes/openai_server.py)."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

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
from gateway.generation.circuit import Circuit, Rule
from gateway.generation.extractive import NO_ANSWER
from gateway.generation.upstream_client import UpstreamClient
from gateway.generation.upstream_generator import UpstreamGenerator
from gateway.tier_config import UpstreamTier
from gateway.types import Delta, Inquiry, Passage, Sampling, Turn
from tests.fakes.engines import PASSAGES, passage
from tests.fakes.openai_server import FakeOpenAi, running_openai
from tests.integration.api.conftest import free_port

KEY = "sk-very-secret-0123456789"
WAIT_S = 0.4


class Stand:
    """A tier over a fake server, and what was counted."""

    def __init__(self, fake: FakeOpenAi, **fields: Any) -> None:
        self.fake = fake
        self.results: list[str] = []
        self.now = 0.0
        self.tier = UpstreamTier(
            name="large",
            model="m-70b",
            **{"base_url": fake.url, "slots": 32, "max_tokens": 256}
            | {"connect_s": 2, "first_token_s": 5, "between_tokens_s": 5}
            | fields,
        )
        self.client = UpstreamClient(self.tier, KEY)
        self.generator = UpstreamGenerator(
            self.client,
            self.tier,
            circuit=Circuit(Rule(min_failures=3, cool_down_s=5)),
            clock=lambda: self.now,
            count=self.results.append,
        )

    async def write(
        self,
        *,
        sampling: Sampling | None = None,
        history: list[Turn] | None = None,
        passages: list[Passage] | None = None,
        timeout_s: float = 20,
    ) -> list[Delta]:
        inquiry = Inquiry(
            question="What does a tide gate do?", history=history or [], sampling=sampling or Sampling()
        )
        answer = self.generator.answer(inquiry, passages or PASSAGES, timeout_s=timeout_s)
        return [delta async for delta in answer]


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[FakeOpenAi]:
    async with running_openai() as server:
        yield server


@pytest_asyncio.fixture
async def stand(fake: FakeOpenAi) -> AsyncIterator[Stand]:
    made = Stand(fake)
    yield made
    await made.client.close()


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def until(holds: Any, limit_s: float = 5) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


async def test_an_answer_streams_with_verified_citations_and_the_servers_counts(stand: Stand) -> None:
    stand.fake.texts = ["A tide gate holds back the surge [", "1]. Bananas are yellow [1].", " Ünï 🌊 [9]"]
    deltas = await stand.write()
    assert text_of(deltas) == "A tide gate holds back the surge [1]. Bananas are yellow. Ünï 🌊"
    assert [each.passage for delta in deltas for each in delta.citations] == [1]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert (deltas[-1].num_input_tokens, deltas[-1].num_output_tokens) == (42, 9)
    assert sum(delta.num_unsupported for delta in deltas) == 2
    assert deltas[0].num_passages == len(PASSAGES)
    assert stand.results == ["ok"]


async def test_the_request_is_openais_with_the_operators_model_and_key(stand: Stand) -> None:
    await stand.write(history=[Turn("user", "Hi"), Turn("assistant", "Hello")])
    body = stand.fake.body()
    assert (body["model"], body["stream"], body["stream_options"]) == ("m-70b", True, {"include_usage": True})
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert '<passage number="1"' in body["messages"][0]["content"]
    assert body["max_tokens"] == 256
    assert {"temperature", "top_p", "seed", "stop", "tools"} & body.keys() == set()
    assert f"authorization: Bearer {KEY}".lower() in stand.fake.heads[-1].lower()
    assert stand.fake.heads[-1].startswith("POST /v1/chat/completions HTTP/1.1")


async def test_sampling_reaches_the_server_and_the_tier_has_its_own(fake: FakeOpenAi) -> None:
    stand = Stand(fake, temperature=0.3, max_tokens_field="max_completion_tokens")
    await stand.write(sampling=Sampling(top_p=0.5, seed=7, stop=["END"], max_tokens=9))
    body = fake.body()
    assert (body["temperature"], body["top_p"], body["seed"], body["stop"]) == (0.3, 0.5, 7, ["END"])
    assert body["max_completion_tokens"] == 9
    assert "max_tokens" not in body
    await stand.client.close()


async def test_prompt_and_answer_never_outgrow_the_context(fake: FakeOpenAi) -> None:
    stand = Stand(fake, context_tokens=1200, max_tokens=200)
    deltas = await stand.write(sampling=Sampling(max_tokens=1100))
    assert fake.body()["max_tokens"] + deltas[0].num_input_tokens <= 1200
    long = [passage(n, "A tide gate holds back the surge of the sea. " * 20) for n in range(1, 9)]
    deltas = await stand.write(passages=long)
    assert 0 < deltas[0].num_passages < 8
    await stand.client.close()


async def test_marks_of_chat_templates_in_a_document_are_broken_up(stand: Stand) -> None:
    marks = ["<|im_end|>", "<|eot_id|>", "</s>", "[/INST]", "<end_of_turn>", "<<SYS>>", "<｜User｜>"]
    await stand.write(passages=[passage(1, f"A tide gate {' '.join(marks)} holds.")])
    content = stand.fake.body()["messages"][0]["content"]
    assert [mark for mark in marks if mark in content] == []
    assert "im_end" in content


@pytest.mark.parametrize("piece_bytes", [1, 7, 64])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_the_answer_is_the_same_however_it_is_cut(
    stand: Stand, piece_bytes: int, line_end: bytes
) -> None:
    stand.fake.piece_bytes, stand.fake.line_end, stand.fake.comments = piece_bytes, line_end, True
    deltas = await stand.write()
    assert text_of(deltas) == "A tide gate holds back the surge [1]."


async def test_without_usage_and_done_events_are_counted(stand: Stand) -> None:
    stand.fake.usage, stand.fake.ends_with_done = None, False
    deltas = await stand.write()
    assert deltas[-1].num_output_tokens == 3
    assert deltas[-1].num_input_tokens == deltas[0].num_input_tokens > 100
    assert deltas[-1].finish_reason == "stop"


async def test_an_unknown_finish_reason_is_told_as_stop_and_length_as_length(stand: Stand) -> None:
    stand.fake.finish_reason = "eos"
    assert (await stand.write())[-1].finish_reason == "stop"
    stand.fake.finish_reason = "length"
    assert (await stand.write())[-1].finish_reason == "length"


async def test_nothing_is_written_from_memory_alone(stand: Stand) -> None:
    answer = stand.generator.answer(Inquiry(question="Who?"), [], timeout_s=5)
    assert [delta async for delta in answer] == [Delta(text=NO_ANSWER, finish_reason="no_answer")]
    assert stand.fake.requests == []


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


async def test_a_server_that_is_not_there_is_unavailable(fake: FakeOpenAi) -> None:
    stand = Stand(fake, base_url=f"http://127.0.0.1:{free_port()}/v1")
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
    fake: FakeOpenAi, fields: dict[str, float], knobs: dict[str, Any]
) -> None:
    for name, value in knobs.items():
        setattr(fake, name, value)
    stand = Stand(fake, **fields)
    began = time.monotonic()
    with pytest.raises(UpstreamTimeout):
        await stand.write(timeout_s=20 if fields else WAIT_S)
    assert WAIT_S * 0.9 < time.monotonic() - began < WAIT_S + 2
    await asyncio.wait_for(fake.left.wait(), 2)  # the server is not left working for nobody
    await stand.client.close()


async def test_a_slow_answer_is_no_timeout_while_it_moves_nor_while_we_are_slow(fake: FakeOpenAi) -> None:
    stand = Stand(fake, first_token_s=WAIT_S, between_tokens_s=WAIT_S)
    fake.gap_s, fake.reasoning = WAIT_S / 3, ["hm", "hm", "hm"]
    assert text_of(await stand.write()) == "A tide gate holds back the surge [1]."
    fake.gap_s = 0
    got = []
    async for delta in stand.generator.answer(Inquiry(question="What?"), PASSAGES, timeout_s=20):
        got.append(delta)
        await asyncio.sleep(WAIT_S * 1.2)
    assert text_of(got) == "A tide gate holds back the surge [1]."
    await stand.client.close()


@pytest.mark.parametrize("knob", ["delay_s", "first_delay_s", "gap_s"])
async def test_leaving_ends_the_work_on_the_server(stand: Stand, knob: str) -> None:
    setattr(stand.fake, knob, 60)
    task = asyncio.create_task(stand.write())
    await until(lambda: stand.fake.num_running == 1)
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(stand.fake.left.wait(), 2)
    assert stand.results == ["left"] if knob != "gap_s" else stand.results in (["left"], ["ok"])


async def test_leaving_the_iterator_ends_the_work_too(stand: Stand) -> None:
    stand.fake.gap_s = 0.05
    stand.fake.texts = ["word "] * 1000
    answer: Any = stand.generator.answer(Inquiry(question="What?"), PASSAGES, timeout_s=20)
    async with aclosing(answer):
        async for delta in answer:
            if delta.text:
                break
    await asyncio.wait_for(stand.fake.left.wait(), 2)


async def test_connections_are_used_again_and_a_stale_one_costs_nothing(stand: Stand) -> None:
    for _ in range(5):
        await stand.write()
    assert stand.fake.num_connections == 1
    stand.fake.close_after = 2
    for _ in range(6):
        assert text_of(await stand.write())
    assert stand.results == ["ok"] * 11


async def test_many_at_once_get_their_own_answers(stand: Stand) -> None:
    stand.fake.gap_s = 0.01
    answers = await asyncio.gather(*(stand.write() for _ in range(32)))
    assert {text_of(each) for each in answers} == {"A tide gate holds back the surge [1]."}
    assert stand.fake.most_running <= 32


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


async def test_a_proxy_in_the_environment_has_no_part(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv("NO_PROXY")
    fresh = Stand(stand.fake)
    assert text_of(await fresh.write())
    await fresh.client.close()


async def test_the_key_is_in_no_log_and_no_repr(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await stand.write()
    stand.fake.status, stand.fake.error = 401, f"Incorrect API key provided: {KEY}"
    with pytest.raises(UpstreamUnavailable):
        await stand.write()
    shown = caplog.text + repr(stand.client) + repr(stand.generator) + repr(stand.tier)
    assert KEY not in shown


async def test_https_is_believed_by_the_operators_certificate_alone(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, which makes the server's certificate")
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = [
        openssl,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        *names,
    ]
    await asyncio.to_thread(subprocess.run, argv, cwd=tmp_path, check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with running_openai(tls=tls) as server:
        trusting, other = Stand(server, ca_file=str(tmp_path / "cert.pem")), Stand(server)
        assert text_of(await trusting.write()) == "A tide gate holds back the surge [1]."
        with pytest.raises(UpstreamUnavailable) as refused:
            await other.write()
        assert "CERTIFICATE_VERIFY_FAILED" in refused.value.detail
        for stand in (trusting, other):
            await stand.client.close()
