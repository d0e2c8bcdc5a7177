from __future__ import annotations

from gateway.generation.prompt import AS_JSON_ALONE, PromptBuilder
from gateway.types import Inquiry, Sampling, Turn
from tests.fakes.chat import ByteChat

CHAT = ByteChat()
BUILDER = PromptBuilder("small", CHAT, context_tokens=1000, max_tokens=100)


def test_the_messages_are_the_callers_own() -> None:
    turns = [Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hello")]
    prompt = BUILDER.build(Inquiry(question="Why?", history=turns, without_documents=True), [])
    assert [(each["role"], each["content"]) for each in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Why?"),
    ]
    counted = len(CHAT.encode(CHAT.render(prompt.messages)))
    assert 0 <= prompt.num_tokens - counted < 10


def test_without_a_system_message_there_is_none() -> None:
    prompt = BUILDER.build(Inquiry(question="Why?", without_documents=True), [])
    assert prompt.messages == [{"role": "user", "content": "Why?"}]


def test_a_schema_is_told_without_a_word_of_passages() -> None:
    asked = Inquiry(question="Why?", sampling=Sampling(json_schema="{}"), without_documents=True)
    system = BUILDER.build(asked, []).messages[0]["content"]
    assert system == f"{AS_JSON_ALONE}\n{{}}"
    assert "passage" not in system.lower()
