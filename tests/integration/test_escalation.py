"""Thin evidence takes `auto` to a tier that writes, before anything is sent: a worker as it is built from its settings.

The tier is on another server, reached over a real socket. Only the search is scripted: it finds little.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sanic import Sanic

from gateway import app
from gateway.api.routes import create_app
from gateway.api.services import Services
from gateway.lifecycle import State
from gateway.listener import BACKLOG, listening_socket
from gateway.settings import load_settings
from gateway.storage import keys
from gateway.types import Passage
from tests.fakes.engines import ScriptedRetriever, passage
from tests.fakes.openai_server import FakeOpenAi, running_openai
from tests.integration.api.conftest import free_port

QUESTION = "Who conquered Peru?"
THIN = [passage(1, "The mill ground flour for the valley.", score=0.1)]
RICH = [passage(1, "Francisco Pizarro conquered Peru in 1533.", score=0.99)]


@dataclass
class Stand:
    services: Services
    server: FakeOpenAi
    retriever: ScriptedRetriever
    client: httpx.AsyncClient

    async def ask(self, **extension: Any) -> Told:
        body = {
            "model": "auto",
            "stream": True,
            "messages": [{"role": "user", "content": QUESTION}],
            "tidegate": {"cache": "off", "events": True, **extension},
        }
        told = Told()
        async with self.client.stream("POST", "/v1/chat/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    told.take(json.loads(line.removeprefix("data: ")))
        return told

    def counted(self, tier: str, reason: str) -> float:
        labels = {"tier": tier, "reason": reason}
        read = self.services.metrics.registry.get_sample_value
        return read("tidegate_tier_choices_total", labels) or 0.0


@dataclass
class Told:
    """What the client saw. before_text: stages that were told before the first token."""

    text: str = ""
    before_text: list[str] = field(default_factory=list)
    models: set[str] = field(default_factory=set)  # of the chunks with text
    receipt: dict[str, Any] = field(default_factory=dict)

    def take(self, chunk: dict[str, Any]) -> None:
        extension = chunk.get("tidegate", {})
        self.receipt = extension.get("receipt", self.receipt)
        if "stage" in extension and not self.text:
            self.before_text.append(extension["stage"])
        for choice in chunk.get("choices", []):
            if text := choice["delta"].get("content", ""):
                self.text += text
                self.models.add(chunk["model"])


@asynccontextmanager
async def running(
    folder: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch, passages: list[Passage], auto_tiers: str
) -> AsyncIterator[Stand]:
    retriever = ScriptedRetriever(passages=passages)
    monkeypatch.setattr(app, "TritonRetriever", lambda _: retriever)
    (folder / "models").symlink_to(models_dir)
    async with running_openai() as server:
        tiers = folder / "tiers.toml"
        tiers.write_text(f'[large]\nbase_url = "{server.url}"\nmodel = "m"\nslots = 6\n')
        settings = load_settings(
            {}, var=folder, port=free_port(), tiers_file=str(tiers), auto_tiers=auto_tiers,
            gateway_workers=1, redis_url="redis://127.0.0.1:1/0",
        )  # fmt: skip
        services, triton = await app.build(settings)
        services.database.migrate()
        with services.database.write() as conn:
            keys.ensure_tenant(conn, keys.DEFAULT_TENANT)
        made = create_app(services, name=f"escalation-{settings.port}")
        made.config.TOUCHUP = False
        sock = listening_socket("127.0.0.1", settings.port)
        http: Any = await made.create_server(sock=sock, backlog=BACKLOG, access_log=False)
        await http.startup()
        await http.start_serving()
        services.lifecycle.state = State.READY
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{settings.port}", timeout=20) as client:
                yield Stand(services, server, retriever, client)
        finally:
            http.close()
            await services.lifecycle.drain(5)
            await services.lifecycle.stop_tasks()
            await services.upstreams["large"].close()
            await triton.close()
            await services.redis.aclose()
            services.database.close()
            Sanic.unregister_app(made)


async def test_thin_evidence_goes_on_to_a_tier_that_writes_before_the_first_token(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, models_dir, monkeypatch, THIN, "fast,large") as stand:
        told = await stand.ask()
        assert (told.receipt["tier"], told.models) == ("large", {"large"})
        assert told.receipt["tier_reason"] == (
            "auto: a short question for one fact; fast found too little, so large looks again"
        )
        assert told.text == "A tide gate holds back the surge."  # which the passage does not say: no citation
        assert told.receipt["hops"] == 2, "once for fast, once for large"
        assert [scope.k for scope in stand.retriever.scopes] == [5, 8]
        assert told.before_text.count("retrieving") == 1
        assert len(stand.server.requests) == 1
        assert stand.counted("fast", "simple") == stand.counted("large", "thin_evidence") == 1


async def test_evidence_that_will_do_stays_with_the_tier_that_quotes(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, models_dir, monkeypatch, RICH, "fast,large") as stand:
        await stand.ask()  # nobody reads for `fast` here, so its fallback may answer: not for thin evidence
        assert [scope.k for scope in stand.retriever.scopes] == [5], "nobody has looked again"
        assert (stand.counted("fast", "simple"), stand.counted("large", "thin_evidence")) == (1, 0)


async def test_a_tier_that_writes_is_not_taken_where_the_setting_does_not_name_it(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, models_dir, monkeypatch, THIN, "") as stand:
        await stand.ask()
        assert stand.counted("deep", "thin_evidence") == 1
        assert stand.server.requests == []
