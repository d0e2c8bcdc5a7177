"""The chat page in a real headless Chromium against the real service.

Every test also proves, at its end, that no request left the page's origin, no script failed, and the content security
policy was never broken. Where a stream must come in a certain rhythm (a stop in mid-sentence, bytes cut inside a
letter), `Wire` stands in for the network inside the page; everything else is the running service.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

api = pytest.importorskip("playwright.async_api", reason="the Playwright package is not installed")
expect = api.expect

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(
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


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        await browser.close()


@pytest.fixture
def screen() -> dict[str, Any]:
    """Options of the browser context; a test changes them by parametrising."""
    return {}


@pytest_asyncio.fixture(loop_scope="session")
async def chat(
    browser: Any, service: Any, screen: dict[str, Any], request: pytest.FixtureRequest
) -> AsyncIterator[Chat]:
    """The opened page. In a test that also takes `wire`, answers come from there instead of the service."""
    options = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **screen}
    context = await browser.new_context(**options)
    context.set_default_timeout(15_000)
    page = await context.new_page()
    if "wire" in request.fixturenames:
        await page.add_init_script(Wire.SCRIPT)
    chat = await Chat(page, service.base_url.rstrip("/")).open()
    yield chat
    await context.close()
    assert chat.problems == []
    assert chat.foreign_urls() == []


@pytest.fixture
def wire(chat: Chat) -> Wire:
    return Wire(chat.page)


PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
on_phone = pytest.mark.parametrize("screen", [PHONE], ids=["phone"])
in_both_themes = pytest.mark.parametrize(
    "screen", [{"color_scheme": "light"}, {"color_scheme": "dark"}], ids=["light", "dark"]
)


# The running service


async def test_an_answer_streams_and_lists_its_sources(chat: Chat) -> None:
    await chat.answered()
    answer = chat.page.locator(".prose")
    await expect(answer).not_to_be_empty()
    await expect(answer.locator(".cite").first).to_be_visible()
    await expect(chat.page.get_by_role("region", name="Sources").get_by_role("button").first).to_be_visible()


async def test_a_mark_opens_the_passage_with_the_quoted_sentence_highlighted(chat: Chat) -> None:
    await chat.answered()
    await chat.page.locator(".cite").first.click()
    panel = chat.page.get_by_role("dialog")
    await expect(panel.locator("mark").first).to_be_visible()
    passage_text = await panel.locator("#source-text").inner_text()
    marked = await panel.locator("mark").first.inner_text()
    assert marked.strip()
    assert marked in passage_text
    await expect(panel.get_by_role("heading")).not_to_be_empty()
    await expect(panel.get_by_text("Match 0.")).to_be_visible()


async def test_the_receipt_tells_tier_and_times(chat: Chat) -> None:
    await chat.page.get_by_label("Tier").select_option("fast")
    await chat.answered()
    await chat.page.get_by_text("How this was answered").click()
    told = chat.page.locator(".receipt")
    await expect(told).to_contain_text("fast: ")
    await expect(told).to_contain_text("Searching")
    await expect(told).to_contain_text(" ms")


async def test_an_example_question_asks_itself(chat: Chat) -> None:
    await chat.page.get_by_role("button", name=QUESTION).click()
    await expect(chat.page.locator(".question")).to_contain_text(QUESTION)
    await expect(chat.page.get_by_text("How this was answered")).to_be_visible(timeout=30_000)


async def test_the_whole_way_works_by_keyboard(chat: Chat) -> None:
    page = chat.page
    await expect(page.get_by_label("Your question")).to_be_focused()
    await page.keyboard.type("What happens when")
    await page.keyboard.press("Shift+Enter")
    await page.keyboard.type("a Triton replica dies?")
    assert await page.locator("#question").input_value() == "What happens when\na Triton replica dies?"
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("How this was answered")).to_be_visible(timeout=30_000)
    for _ in range(40):
        await page.keyboard.press("Shift+Tab")
        if await page.evaluate("document.activeElement.matches('.cite')"):
            break
    mark = page.locator(".cite").last
    await expect(mark).to_be_focused()
    assert await mark.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    await page.keyboard.press("Enter")
    await expect(page.locator("#source mark").first).to_be_visible()
    assert await page.evaluate("document.activeElement.closest('dialog')?.id") == "source"
    await page.keyboard.press("Escape")
    await expect(page.locator("#source")).to_be_hidden()
    await expect(mark).to_be_focused()


async def test_a_new_document_can_be_asked_about_and_its_markup_stays_text(chat: Chat) -> None:
    page = chat.page
    sentence = f"The Wexcombe lighthouse was built in 1787 by the engineer Ines Okafor. {EVIL}"
    await page.get_by_role("button", name="Add documents").first.click()
    await page.get_by_label("Add to").select_option("")
    await page.get_by_label("Name of the new collection").fill("Lighthouses")
    upload = {"name": "wexcombe.txt", "mimeType": "text/plain", "buffer": f"{sentence}\n".encode()}
    await page.locator("#files").set_input_files([upload])
    await expect(page.locator(".upload .state")).to_have_text("Ready", timeout=30_000)
    await page.keyboard.press("Escape")
    chosen = page.locator("#collection option", has_text="Lighthouses").last
    await page.locator("#collection").select_option(await chosen.get_attribute("value"))
    await chat.answered("Who built the Wexcombe lighthouse?")
    await expect(page.locator(".prose")).to_contain_text("Okafor")
    await page.locator(".cite").first.click()
    await expect(page.locator("#source-text")).to_contain_text("<script>")
    assert await page.evaluate("window.pwned") is None


async def test_a_file_that_cannot_be_read_says_why(chat: Chat) -> None:
    page = chat.page
    await page.get_by_role("button", name="Add documents").first.click()
    empty = {"name": "empty.txt", "mimeType": "text/plain", "buffer": b""}
    await page.locator("#files").set_input_files([empty])
    await expect(page.locator(".upload.failed")).to_contain_text("The file is empty.")


async def test_a_refused_request_asks_for_a_key_and_goes_on(chat: Chat, service: Any) -> None:
    async def guard(route: Any) -> None:
        if route.request.headers.get("authorization") == f"Bearer {service.api_key}":
            await route.continue_()
        else:
            body = {"error": {"message": "no key", "type": "t", "param": None, "code": "invalid_api_key"}}
            await route.fulfill(status=401, json=body)

    await chat.page.route(CHAT, guard)
    await chat.ask(QUESTION)
    dialog = chat.page.get_by_role("dialog", name="API key needed")
    await dialog.get_by_label("API key").fill("tg-wrong-key-0123456789")
    await chat.page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("That key was not accepted")
    await dialog.get_by_label("API key").fill(service.api_key)
    await chat.page.keyboard.press("Enter")
    await expect(chat.page.get_by_text("How this was answered")).to_be_visible(timeout=30_000)
    assert not any(service.api_key in url for url in chat.urls)


# Failures, in plain words


async def test_a_busy_service_says_so_and_when_to_retry(chat: Chat) -> None:
    body = {
        "error": {
            "message": "No place is free.",
            "type": "overloaded_error",
            "param": None,
            "code": "capacity",
        }
    }
    await chat.page.route(
        CHAT, lambda route: route.fulfill(status=503, headers={"Retry-After": "7"}, json=body)
    )
    await chat.ask(QUESTION)
    alert = chat.page.get_by_role("alert")
    await expect(alert).to_contain_text("The service is busy right now. Try again in about 7 s.")
    await chat.page.unroute(CHAT)
    await alert.get_by_role("button", name="Retry").click()
    await expect(chat.page.get_by_text("How this was answered")).to_be_visible(timeout=30_000)
    await expect(alert).to_be_hidden()


async def test_a_lost_network_is_told_in_plain_words(chat: Chat) -> None:
    await chat.page.route(CHAT, lambda route: route.abort())
    await chat.ask(QUESTION)
    await expect(chat.page.get_by_role("alert")).to_contain_text("The service cannot be reached.")


async def test_an_error_in_mid_stream_keeps_the_text(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    await wire.send(text("Half an answer"), {"error": {"message": "gone", "code": "upstream_unavailable"}})
    await expect(chat.page.get_by_role("alert")).to_contain_text("The model that answers is not ready")
    await expect(chat.page.locator(".prose")).to_have_text("Half an answer")


async def test_a_stream_that_ends_early_is_not_taken_for_an_answer(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    await wire.send(text("Half an"))
    await chat.page.evaluate("wire.controller.close()")
    await expect(chat.page.get_by_role("alert")).to_contain_text("The connection broke")


# Streams


@pytest.mark.parametrize("how", ["button", "Escape"])
async def test_stop_ends_the_request_and_keeps_what_came(chat: Chat, wire: Wire, how: str) -> None:
    await chat.ask("Why?")
    await wire.send(text("The first half"))
    await expect(chat.page.locator(".prose")).to_have_text("The first half")
    if how == "button":
        await chat.page.get_by_role("button", name="Stop").click()
    else:
        await chat.page.keyboard.press("Escape")
    await expect(chat.page.get_by_text("Stopped.")).to_be_visible()
    await expect(chat.page.locator(".prose")).to_have_text("The first half")
    assert await chat.page.evaluate("wire.isAborted")
    await expect(chat.page.get_by_role("button", name="Send")).to_be_visible()


async def test_waiting_is_told_in_plain_words(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    status = chat.page.locator(".status")
    await expect(status).to_have_text("Searching your documents…")
    await wire.send({"choices": [], "tidegate": {"queue": {"position": 3, "eta_s": 3.4}}})
    await expect(status).to_have_text("Waiting: position 3, about 4 s")
    await expect(chat.page.get_by_role("status")).to_have_text("Waiting: position 3, about 4 s")
    await wire.send(text("Now."))
    await expect(status).to_be_hidden()


async def test_bytes_cut_anywhere_still_make_the_answer(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    stream = b": keep-alive\r\n\r\n" + b"".join(event(text(part)) for part in ("Ebb — ", "潮汐 ", "🌊 fin."))
    stream = stream.replace(b"\n", b"\r\n")
    await wire.bytes(*(stream[at : at + 1] for at in range(len(stream))))
    await wire.end()
    await expect(chat.page.locator(".prose")).to_have_text("Ebb — 潮汐 🌊 fin.")
    await expect(chat.page.get_by_role("alert")).to_be_hidden()


async def test_markup_from_the_service_is_never_parsed(chat: Chat, wire: Wire) -> None:
    await chat.ask(f"Why {EVIL}?")
    shown = passage(1, EVIL, filename=EVIL, heading=EVIL)
    await wire.send(
        text(f"{EVIL} [1]", quote(1, EVIL, filename=EVIL)), receipt(shown, id=EVIL, tier_reason=EVIL)
    )
    await wire.end()
    await chat.page.get_by_text("How this was answered").click()
    await chat.page.locator(".cite").click()
    await expect(chat.page.locator("#source mark")).to_have_text(EVIL)
    for place in (".question", ".prose", ".source", ".receipt", "#source-title"):
        assert EVIL in await chat.page.locator(place).first.inner_text()
    assert await chat.page.locator("#turns img, #turns script, #source img").count() == 0
    assert await chat.page.evaluate("window.pwned") is None


async def test_each_mark_points_at_its_own_sentence(chat: Chat, wire: Wire) -> None:
    body = "Low water 🌊 comes first.\nThen the gate\nopens. High water follows."
    await chat.ask("Why?")
    await wire.send(
        text("Then the gate opens. [1] ", quote(1, "Then the gate opens.", 526)),
        text("High water follows. [1] An array[2] stays.", quote(1, "High water follows.", 547)),
        receipt(passage(1, body, start=500)),
    )
    await wire.end()
    await expect(chat.page.locator(".cite")).to_have_count(2)
    await expect(chat.page.locator(".prose")).to_contain_text("array[2]")
    for at, sentence in enumerate(["Then the gate\nopens.", "High water follows."]):
        await chat.page.locator(".cite").nth(at).click()
        assert await chat.page.locator("#source mark.now").text_content() == sentence
        await expect(chat.page.locator("#source mark")).to_have_count(2)


async def test_a_question_carries_the_conversation_but_no_more_than_twenty_messages(
    chat: Chat, wire: Wire
) -> None:
    for turn in range(12):
        await chat.ask(f"question {turn}")
        await wire.send(text(f"answer {turn} [1]", quote(1, "answer")))
        await wire.end()
        await expect(chat.page.get_by_role("button", name="Send")).to_be_visible()
    messages = (await wire.last_body())["messages"]
    assert len(messages) <= 20
    assert [message["role"] for message in messages[:2]] == ["user", "assistant"]
    assert messages[-2:] == [
        {"role": "assistant", "content": "answer 10"},
        {"role": "user", "content": "question 11"},
    ]


async def test_a_new_chat_starts_empty(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    await wire.send(text("Because"))
    await chat.page.get_by_role("button", name="New chat").click()
    assert await chat.page.evaluate("wire.isAborted")
    await expect(chat.page.locator(".turn")).to_have_count(0)
    await chat.ask("And now?")
    assert (await wire.last_body())["messages"] == [{"role": "user", "content": "And now?"}]


# Looks


@on_phone
async def test_nothing_scrolls_sideways_on_a_phone(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why is this/a/very/long/path" + "/that/does/not/break" * 10)
    words = "A word that does not break: " + "x" * 300 + "\n\n```\n" + "code " * 60 + "\n```"
    await wire.send(text(words + " [1]", quote(1, "xx", filename="f" * 200)), receipt(passage(1, "xx" * 300)))
    await wire.end()
    await chat.page.get_by_text("How this was answered").tap()
    assert await chat.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert await chat.page.evaluate("document.getElementById('conversation').scrollWidth") <= 360
    await chat.page.locator(".source").first.tap()
    await expect(chat.page.locator("#source mark")).to_be_visible()
    assert await chat.page.evaluate("document.documentElement.scrollWidth") <= 360


async def test_the_theme_follows_the_system_until_chosen_and_is_remembered(chat: Chat) -> None:
    page = chat.page
    background = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate(background)
    assert light != dark
    button = page.locator("#theme")
    await button.click()
    assert await page.evaluate(background) == light
    await button.click()
    await page.emulate_media(color_scheme="light")
    assert await page.evaluate(background) == dark
    await chat.open()
    assert await page.evaluate(background) == dark


CONTRASTS = """
() => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((value) => linear(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const hasText = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!hasText || !node.checkVisibility() || node.closest(":disabled, .hidden, option, noscript")) continue;
    const behind = [];
    for (let up = node; up; up = up.parentElement) behind.unshift(getComputedStyle(up).backgroundColor);
    const style = getComputedStyle(node);
    const [a, b] = [light(over([...behind, style.color])), light(over(behind))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    const wanted = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if (ratio < wanted) low.push(`${node.className || node.id} ${ratio.toFixed(2)}`);
  }
  return low;
}
"""


@in_both_themes
async def test_text_stands_out_enough_from_what_is_behind_it(chat: Chat, wire: Wire) -> None:
    assert await chat.page.evaluate(CONTRASTS) == []
    await chat.ask("Why?")
    await wire.send(text("Low water. [1] `code`", quote(1, "Low water.")))
    await expect(chat.page.locator(".cite")).to_be_visible()
    assert await chat.page.evaluate(CONTRASTS) == []
    await wire.send(receipt(passage(1, "Low water. High water."), passage(2, "More.")))
    await wire.end()
    for disclosure in ("How this was answered", "Read but not quoted"):
        await chat.page.get_by_text(disclosure).click()
    await chat.page.locator(".cite").click()
    await expect(chat.page.locator("#source mark")).to_be_visible()
    assert await chat.page.evaluate(CONTRASTS) == []
    await chat.ask("And?")
    await wire.send({"error": {"message": "gone", "code": "internal_error"}})
    await expect(chat.page.get_by_role("alert")).to_be_visible()
    assert await chat.page.evaluate(CONTRASTS) == []


async def test_every_control_has_a_name(chat: Chat) -> None:
    unnamed = await chat.page.evaluate(
        """() => [...document.querySelectorAll("button, select, textarea, input")]
            .filter((node) => !node.ariaLabel && !node.labels?.length && !node.textContent.trim())
            .map((node) => node.id)"""
    )
    assert unnamed == []


async def test_the_page_is_served_under_a_strict_policy(chat: Chat) -> None:
    response = await chat.page.request.get(chat.base_url + "/")
    policy = response.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
