"""Failures in plain words, and streams that come in a rhythm of their own.

A stop in mid-sentence, bytes cut inside a letter: there `Wire` stands in for the network inside the page."""

from __future__ import annotations

import pytest

from tests.e2e.page.chat import (
    CHAT,
    EVIL,
    QUESTION,
    Chat,
    Wire,
    event,
    expect,
    needs_chromium,
    passage,
    quote,
    receipt,
    text,
)

pytestmark = needs_chromium


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


async def test_a_worker_that_stops_is_not_noticed(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    await wire.send(text("The first half"))
    assert await chat.page.evaluate("wire.lastEventId") == ""
    after = "chatcmpl-" + 32 * "5" + ".1"
    await wire.send({"error": {"message": "It stops.", "code": "draining", "last_event_id": after}})
    await chat.page.wait_for_function("wire.bodies.length === 2")
    assert await chat.page.evaluate("wire.lastEventId") == after
    assert await chat.page.evaluate("JSON.stringify(wire.bodies[0]) === JSON.stringify(wire.bodies[1])")
    await wire.send(text(" and the second"))
    await wire.end()
    await expect(chat.page.locator(".prose")).to_have_text("The first half and the second")
    await expect(chat.page.get_by_role("alert")).to_be_hidden()


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


async def test_whoever_was_sent_out_of_the_line_comes_back_with_the_ticket(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    error = {"message": "m", "code": "displaced", "type": "t", "retry_after_s": 6.2, "ticket": "abc"}
    await wire.send({"error": error})
    await expect(chat.page.get_by_role("alert")).to_contain_text(
        "The service is busy right now. Try again in about 7 s."
    )
    assert "ticket" not in (await wire.last_body())["tidegate"]
    await chat.page.get_by_role("button", name="Retry").click()
    await wire.send(text("Now."))
    await wire.end()
    await expect(chat.page.locator(".prose")).to_have_text("Now.")
    assert (await wire.last_body())["tidegate"]["ticket"] == "abc"


async def test_an_answer_that_was_shortened_under_load_says_so(chat: Chat, wire: Wire) -> None:
    await chat.ask("Why?")
    told = receipt(passage(1, "Ebb."), degraded=["fewer_passages", "shorter_answers", "dance"])
    await wire.send(text("Ebb. [1]", quote(1, "Ebb.")), told)
    await wire.end()
    note = chat.page.locator(".end-note")
    await expect(note).to_contain_text("Shortened under load: fewer passages read, a shorter answer, dance.")
    await chat.page.get_by_text("How this was answered").click()
    await expect(chat.page.locator(".receipt")).to_contain_text("Given up under load")


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
