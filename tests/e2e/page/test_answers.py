"""The page against the real service: answers, sources, documents, keys."""

from __future__ import annotations

from typing import Any

from tests.e2e.page.chat import (
    CHAT,
    EVIL,
    QUESTION,
    Chat,
    expect,
    needs_chromium,
)

pytestmark = needs_chromium


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
    await chat.answered("What does Envoy do with a replica that is gone?")  # nobody else asks that: no hit
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
