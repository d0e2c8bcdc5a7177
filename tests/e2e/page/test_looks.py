"""Looks: sizes, themes, contrast, names, and the policy that the page is served under."""

from __future__ import annotations

import pytest

from tests.e2e.page.chat import (
    Chat,
    Wire,
    expect,
    in_both_themes,
    needs_chromium,
    on_phone,
    passage,
    quote,
    receipt,
    text,
)

pytestmark = needs_chromium


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


IN_THE_BAR = """
() => [...document.querySelectorAll(".bar :is(.brand, .picker, button)")].map((each) => {
  const { left, right } = each.getBoundingClientRect();
  return [left, right];
})
"""


@pytest.mark.parametrize("width", [700, 960, 1280, 1920])
async def test_what_stands_in_the_bar_stands_side_by_side_and_inside_it(chat: Chat, width: int) -> None:
    await chat.page.set_viewport_size({"width": width, "height": 800})
    await expect(chat.page.locator("#collection option")).not_to_have_count(1)  # as wide as it gets
    parts = await chat.page.evaluate(IN_THE_BAR)
    edges = [edge for part in parts for edge in part]
    assert len(parts) == 6
    assert edges == sorted(edges)
    assert edges[0] >= 0
    assert edges[-1] <= width
    assert min(right - left for left, right in parts) >= 40
    assert await chat.page.evaluate("document.documentElement.scrollWidth") <= width


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
