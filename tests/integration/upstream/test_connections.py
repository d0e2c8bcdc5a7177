"""Connections to another server: leaving, using them again, proxies, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.errors import UpstreamUnavailable
from gateway.types import Inquiry
from tests.fakes.certificates import Pair, make_pair
from tests.fakes.engines import PASSAGES
from tests.fakes.openai_server import running_openai
from tests.integration.upstream.raw_server import request, serving
from tests.integration.upstream.stand import KEY, Stand, text_of, until


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


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make_pair(tmp_path, "IP:127.0.0.1")


async def test_https_is_believed_by_the_operators_certificate_alone(pair: Pair) -> None:
    async with running_openai(tls=pair.for_server()) as server:
        trusting, other = Stand(server, ca_file=str(pair.certificate)), Stand(server)
        assert text_of(await trusting.write()) == "A tide gate holds back the surge [1]."
        with pytest.raises(UpstreamUnavailable) as refused:
            await other.write()
        assert "CERTIFICATE_VERIFY_FAILED" in refused.value.detail
        for stand in (trusting, other):
            await stand.client.close()


class Proxy:
    """Passes on what it is asked to. status: of its answer to CONNECT."""

    def __init__(self, status: int = 200) -> None:
        self._status = status
        self.heads: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = await request(reader)
        self.heads.append(head)
        method, target, _ = head.split(" ", 2)
        if method == "CONNECT":
            writer.write(f"HTTP/1.1 {self._status} So\r\n\r\n".encode())
            if self._status != 200:
                return
            host, _, port = target.rpartition(":")
            first = b""
        else:
            parts = urlsplit(target)
            host, port = str(parts.hostname), str(parts.port)
            first = head.replace(target, parts.path, 1).encode() + body
        there, back = await asyncio.open_connection(host, int(port))
        try:
            back.write(first)
            await asyncio.gather(_pass_on(reader, back), _pass_on(there, writer))
        finally:
            back.transport.abort()
            with contextlib.suppress(ConnectionError):
                await back.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


async def test_the_operators_proxy_is_told_the_whole_url(stand: Stand) -> None:
    proxy = Proxy()
    async with serving(proxy) as port:
        through = Stand(stand.fake, proxy=f"http://127.0.0.1:{port}")
        assert text_of(await through.write()) == "A tide gate holds back the surge [1]."
        assert proxy.heads[0].startswith(f"POST {stand.fake.url}/chat/completions HTTP/1.1\r\n")
        await through.client.close()


async def test_a_proxy_is_only_a_tunnel_to_a_server_that_speaks_tls(pair: Pair) -> None:
    proxy = Proxy()
    async with running_openai(tls=pair.for_server()) as server, serving(proxy) as port:
        fields = {"proxy": f"http://127.0.0.1:{port}", "ca_file": str(pair.certificate)}
        through = Stand(server, **fields)
        for _ in range(2):
            assert text_of(await through.write()) == "A tide gate holds back the surge [1]."
        (head,) = proxy.heads
        assert head.startswith(f"CONNECT {urlsplit(server.url).netloc} HTTP/1.1\r\n")
        assert "authorization" not in head.lower()
        await through.client.close()


async def test_a_proxy_that_refuses_makes_the_tier_unavailable(pair: Pair) -> None:
    async with running_openai(tls=pair.for_server()) as server, serving(Proxy(status=407)) as port:
        through = Stand(server, proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(UpstreamUnavailable) as refused:
            await through.write()
        assert "the proxy answered 407" in refused.value.detail
        await through.client.close()
