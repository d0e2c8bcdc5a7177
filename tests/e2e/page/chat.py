"""The chat page as a person uses it, and the messages that the service sends it. Shared by the tests of the page."""

from __future__ import annotations

import json
import shutil
from typing import Any
from urllib.parse import urlsplit

import pytest

api = pytest.importorskip("playwright.async_api", reason="the Playwright package is not installed")
expect = api.expect

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on PATH: install Debian's package `chromium` to test the page"
)

QUESTION = "What happens when a Triton replica dies?"
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
CHAT = "**/v1/chat/completions"
EVIL = "<img src=x onerror=\"window.pwned='img'\"><script>window.pwned='script'</script>"


class Chat:
    """The page as a person uses it, and what it did wrong behind their back."""

    def __init__(self, page: Any, base_url: str) -> None:
        self.page = page
        self.base_url = base_url
        self.problems: list[str] = []
        self.urls: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        page.on("console", self._on_console)
        page.on("request", lambda request: self.urls.append(request.url))

    def _on_console(self, message: Any) -> None:
        # Chromium reports every 4xx and 5xx itself; the tests that cause one look at what the person sees.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.problems.append(f"console {message.type}: {message.text}")

    async def open(self) -> Chat:
        await self.page.goto(self.base_url + "/")
        await expect(self.page.locator("#tier option")).not_to_have_count(1)
        return self

    async def ask(self, question: str) -> None:
        await self.page.get_by_label("Your question").fill(question)
        await self.page.keyboard.press("Enter")

    async def answered(self, question: str = QUESTION) -> None:
        await self.ask(question)
        await expect(self.page.get_by_text("How this was answered").last).to_be_visible(timeout=30_000)

    def foreign_urls(self) -> list[str]:
        own = urlsplit(self.base_url).netloc
        return [url for url in self.urls if urlsplit(url).netloc != own]


class Wire:
    """The answer's bytes, sent by the test one piece at a time."""

    SCRIPT = """
    (() => {
      const real = window.fetch;
      window.wire = { isAborted: false, bodies: [] };
      window.fetch = (path, options) => {
        if (path !== "/v1/chat/completions") return real(path, options);
        wire.bodies.push(JSON.parse(options.body));
        wire.lastEventId = options.headers["Last-Event-ID"] ?? "";
        wire.isAborted = false;
        const body = new ReadableStream({ start(controller) { wire.controller = controller; } });
        options.signal.addEventListener("abort", () => {
          wire.isAborted = true;
          wire.controller.error(options.signal.reason);
        });
        return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
      };
    })();
    """

    def __init__(self, page: Any) -> None:
        self.page = page

    async def bytes(self, *pieces: bytes) -> None:
        await self.page.evaluate(
            "pieces => pieces.forEach((piece) => wire.controller.enqueue(new Uint8Array(piece)))",
            [list(piece) for piece in pieces],
        )

    async def send(self, *chunks: dict[str, Any]) -> None:
        await self.bytes(*(event(chunk) for chunk in chunks))

    async def end(self) -> None:
        await self.bytes(b"data: [DONE]\n\n")
        await self.page.evaluate("wire.controller.close()")

    async def last_body(self) -> dict[str, Any]:
        return await self.page.evaluate("wire.bodies.at(-1)")


def event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def text(content: str, *quotes: dict[str, Any]) -> dict[str, Any]:
    notes = [{"type": "file_citation", "file_citation": quote} for quote in quotes]
    return {"choices": [{"index": 0, "delta": {"content": content, "annotations": notes}}]}


def quote(passage: int, sentence: str, start: int = 0, filename: str = "tides.txt") -> dict[str, Any]:
    return {
        "file_id": f"file-{passage}",
        "filename": filename,
        "index": 0,
        "passage": passage,
        "quote": sentence,
        "start": start,
        "end": start + len(sentence),
    }


def passage(n: int, body: str, start: int = 0, **changed: Any) -> dict[str, Any]:
    end = start + len(body)
    shown = {
        "filename": "tides.txt",
        "heading": "Ebb",
        "score": 0.5,
        "text": body,
        "start": start,
        "end": end,
    }
    return {"n": n, "file_id": f"file-{n}", "cited": True} | shown | changed


def receipt(*passages: dict[str, Any], **changed: Any) -> dict[str, Any]:
    told = {"id": "chatcmpl-1", "outcome": "completed", "tier": "fast", "tier_reason": "asked for by name"}
    times = {"embed_ms": 3.1, "search_ms": 0.4, "queue_ms": 0.0, "ttft_ms": 9.0, "total_ms": 12.0}
    return {"choices": [], "tidegate": {"receipt": told | times | {"passages": list(passages)} | changed}}


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
on_phone = pytest.mark.parametrize("screen", [PHONE], ids=["phone"])
in_both_themes = pytest.mark.parametrize(
    "screen", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=["light", "dark"]
)
