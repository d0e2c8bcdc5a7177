"""A citation opened at its place in the document, by a link that can be kept and shared."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.conftest import Service
from tests.e2e.page.chat import EVIL, Chat, Wire, expect, needs_chromium, passage, quote, receipt, text

pytestmark = needs_chromium

SENTENCE = "The sluice of Harlow 🌊 opens at half tide."
BEFORE = "".join(f"Line {number} before it. {EVIL}\n" for number in range(400))
AFTER = "".join(f"Line {number} after it.\n" for number in range(400))


@pytest.fixture(scope="module")
def document(service: Service) -> dict[str, Any]:
    """A file of the running service, read. start, end: where SENTENCE stands in its text."""
    with service.client() as client:
        files = {"file": ("harlow.txt", f"{BEFORE}{SENTENCE}\n{AFTER}".encode())}
        made = client.post("/v1/files", files=files, data={"purpose": "assistants"}).json()
        store = client.post("/v1/vector_stores", json={"name": "harlow", "file_ids": [made["id"]]}).json()
        path = f"/v1/vector_stores/{store['id']}/files/{made['id']}"
        while client.get(path).json()["status"] == "in_progress":
            pass
        stored = client.get(f"/v1/files/{made['id']}/content?format=text").text
    start = stored.index(SENTENCE)
    return {"id": made["id"], "start": start, "end": start + len(SENTENCE), "length": len(stored)}


def link(document: dict[str, Any], **changed: Any) -> str:
    place = document | changed
    return f"/#source={place['id']}&start={place['start']}&end={place['end']}"


async def test_a_source_leads_to_its_sentence_in_the_document(
    chat: Chat, wire: Wire, document: dict[str, Any]
) -> None:
    page = chat.page
    await chat.ask("When?")
    cited = quote(1, SENTENCE, document["start"]) | {"file_id": document["id"]}
    shown = passage(1, SENTENCE, document["start"], file_id=document["id"], page=7)
    await wire.send(text(f"{SENTENCE} [1]", cited), receipt(shown))
    await wire.end()
    await page.locator(".cite").click()
    await expect(page.locator("#source-heading")).to_have_text("Page 7 · Ebb")
    await page.get_by_role("link", name="Open in the document").click()
    dialog = page.get_by_role("dialog", name="harlow.txt")
    await expect(dialog.locator("mark.now")).to_have_text(SENTENCE)
    await expect(dialog.locator("mark.now")).to_be_in_viewport()
    await expect(dialog).to_contain_text("Line 399 before it.")
    await expect(dialog).to_contain_text("Line 0 after it.")
    await expect(page).to_have_url(chat.base_url + link(document))


async def test_the_link_opens_the_place_in_a_tab_of_its_own(chat: Chat, document: dict[str, Any]) -> None:
    other = await chat.page.context.new_page()
    await other.goto(chat.base_url + link(document))
    await expect(other.locator("#place mark.now")).to_have_text(SENTENCE)
    await expect(other.locator("#place")).to_contain_text(
        f"Characters {document['start']} to {document['end']} of {document['length']}"
    )
    await other.keyboard.press("Escape")
    await expect(other.locator("#place")).to_be_hidden()
    await expect(other).to_have_url(chat.base_url + "/")  # told a moment after the dialog is gone
    await other.close()


async def test_more_of_the_document_comes_on_either_side_to_its_ends(
    chat: Chat, document: dict[str, Any]
) -> None:
    page = chat.page
    await page.goto(chat.base_url + link(document))
    body = page.locator("#place-text")
    for name, end in (("Earlier", "Line 0 before it."), ("Later", "Line 399 after it.")):
        button = page.get_by_role("button", name=name)
        await expect(button).to_be_visible()
        while await button.is_visible():
            size = await body.evaluate("node => node.textContent.length")
            await button.click()
            await page.wait_for_function(
                "size => document.getElementById('place-text').textContent.length > size", arg=size
            )
        await expect(body).to_contain_text(end)
    assert await body.text_content() == f"{BEFORE}{SENTENCE}\n{AFTER}"[: document["length"]]
    assert await page.evaluate("window.pwned") is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"id": "file-none"}, "not there any more"),
        ({"start": 900_000, "end": 900_001}, "has changed"),
    ],
    ids=["deleted", "changed"],
)
async def test_a_place_that_is_gone_says_so(
    chat: Chat, document: dict[str, Any], changed: dict[str, Any], words: str
) -> None:
    await chat.page.goto(chat.base_url + link(document, **changed))
    dialog = chat.page.get_by_role("dialog", name="This place cannot be shown")
    await expect(dialog).to_contain_text(words)


@pytest.mark.parametrize(
    "fields", ["source=../x&start=0&end=1", "source=file-1&start=-1&end=2", "source=file-1"]
)
async def test_an_address_that_is_no_place_opens_nothing(chat: Chat, fields: str) -> None:
    await chat.page.goto(f"{chat.base_url}/#{fields}")
    await expect(chat.page.get_by_label("Your question")).to_be_visible()
    await expect(chat.page.locator("#place")).to_be_hidden()
