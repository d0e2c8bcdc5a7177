"""A headless Chromium, and the page opened in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from tests.e2e.page.chat import Chat, Wire


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    from tests.e2e.page.chat import ARGS, CHROMIUM, api

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
    """The opened page. In a test that also takes `wire`, answers come from there instead of the service.

    Every test also proves, at its end, that no request left the page's origin, no script failed, and the content
    security policy was never broken.
    """
    from tests.e2e.page.chat import Chat, Wire

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
    from tests.e2e.page.chat import Wire

    return Wire(chat.page)
