from __future__ import annotations

import pytest

from gateway.errors import PromptTooLong
from gateway.generation.prompt import INSTRUCTIONS, MAX_KEPT_COUNTS, Prompt, PromptBuilder
from gateway.types import Inquiry, Sampling, Turn
from tests.fakes.chat import ByteChat
from tests.fakes.engines import passage

CHAT = ByteChat()
PASSAGES = [passage(number, f"Passage {number} says " + "x" * 80) for number in range(1, 6)]
BASE = len(CHAT.render([{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": "Why?"}]))


def build(room: int, *, turns: list[Turn] | None = None, question: str = "Why?", **sampling: int) -> Prompt:
    """A prompt with `room` tokens for passages and turns; the answer is promised 100."""
    builder = PromptBuilder("small", CHAT, context_tokens=BASE + 8 + room + 100, max_tokens=100)
    asked = Inquiry(question=question, history=turns or [], sampling=Sampling(**sampling))
    return builder.build(asked, PASSAGES)


def texts(prompt: Prompt) -> list[str]:
    return [message["content"] for message in prompt.messages]


def test_passages_are_numbered_and_say_where_they_come_from() -> None:
    system = texts(build(10_000))[0]
    assert system.startswith(INSTRUCTIONS)
    for number in range(1, 6):
        head = f'<passage number="{number}" source="doc{number}.md › Guide">'
        assert f"\n\n{head}\nPassage {number} says" in system
    assert system.count("\n</passage>") == 5


def test_the_question_comes_last_and_history_in_between() -> None:
    turns = [Turn("user", "Hi"), Turn("assistant", "Hello")]
    prompt = build(10_000, turns=turns)
    assert [message["role"] for message in prompt.messages] == ["system", "user", "assistant", "user"]
    assert texts(prompt)[1:] == ["Hi", "Hello", "Why?"]


def test_passages_that_do_not_fit_are_left_out_whole_worst_first() -> None:
    prompt = build(370)
    assert prompt.num_passages == 2
    assert "Passage 2" in texts(prompt)[0]
    assert "Passage 3" not in texts(prompt)[0]


@pytest.mark.parametrize("room", range(0, 900, 37), ids=str)
def test_the_prompt_always_leaves_the_answer_its_share(room: int) -> None:
    turns = [Turn("user" if n % 2 == 0 else "assistant", f"turn {n} " + "y" * 50) for n in range(8)]
    prompt = build(room, turns=turns)
    assert len(CHAT.encode(CHAT.render(prompt.messages))) + 100 <= BASE + 8 + room + 100


def test_history_is_trimmed_from_its_oldest_turn_and_begins_with_the_user() -> None:
    turns = [Turn("user" if n % 2 == 0 else "assistant", f"turn {n} " + "y" * 50) for n in range(8)]
    kept = texts(build(700, turns=turns))[1:-1]
    assert kept
    assert kept == [turn.text for turn in turns][-len(kept) :]
    assert kept[0].startswith(("turn 0", "turn 2", "turn 4", "turn 6"))


@pytest.mark.parametrize(("room", "asked"), [(2000, "Why so?"), (200, "Why does the gate close?")], ids=str)
def test_a_follow_up_is_asked_in_full_where_its_conversation_has_no_room(room: int, asked: str) -> None:
    turns = [Turn("user", "Does the gate close? " + "y" * 200), Turn("assistant", "Yes. " + "y" * 200)]
    builder = PromptBuilder("small", CHAT, context_tokens=BASE + 8 + room + 100, max_tokens=100)
    inquiry = Inquiry(question="Why so?", meant="Why does the gate close?", history=turns)
    prompt = builder.build(inquiry, PASSAGES)
    assert texts(prompt)[-1] == asked
    assert (len(prompt.messages) > 2) == (asked == "Why so?")


def test_a_conversation_keeps_its_share_beside_many_passages() -> None:
    turns = [Turn("user", "The gate at Altona, please."), Turn("assistant", "Yes?")]
    prompt = build(500, turns=turns)
    assert "The gate at Altona, please." in texts(prompt)
    assert prompt.num_passages >= 1


def test_the_callers_system_messages_follow_our_instructions_and_are_kept() -> None:
    turns = [Turn("system", "Answer in verse."), Turn("user", "z" * 5000), Turn("assistant", "no")]
    prompt = build(300, turns=turns)
    assert texts(prompt)[0].startswith(f"{INSTRUCTIONS}\n\nAnswer in verse.")
    assert "z" * 5000 not in texts(prompt)


def test_a_question_without_room_is_refused_with_both_numbers() -> None:
    with pytest.raises(
        PromptTooLong, match=r"have \d+ tokens; the tier 'small' takes at most \d+ beside"
    ) as refused:
        build(0, question="w" * 200)
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        400,
        "prompt_too_long",
        "messages",
    )


def test_max_tokens_of_the_request_counts_up_to_half_of_the_context() -> None:
    assert build(10_000, max_tokens=7).max_tokens == 7
    assert build(400).max_tokens == 100
    wide = build(3000, max_tokens=1_000_000)
    assert wide.max_tokens == BASE + 8 + 3000 + 100
    assert wide.num_passages == 5


def test_passages_that_come_again_are_not_counted_again() -> None:
    class Counting(ByteChat):
        num_counted = 0

        def count_many(self, texts: list[str]) -> list[int]:
            self.num_counted += sum("Passage" in text for text in texts)
            return super().count_many(texts)

    chat = Counting()
    builder = PromptBuilder("small", chat, context_tokens=20_000, max_tokens=100)
    for question in ("Why?", "How?", "When?"):
        assert builder.build(Inquiry(question=question), PASSAGES).num_passages == 5
    assert chat.num_counted == len(PASSAGES)


@pytest.mark.parametrize("num_texts", [10_000, 8000], ids=str)
def test_kept_counts_are_bounded(num_texts: int) -> None:
    builder = PromptBuilder("small", CHAT, context_tokens=20_000, max_tokens=100)
    for start in range(0, num_texts, 1000):
        passages = [passage(n, f"Number {n}") for n in range(start, start + 1000)]
        builder.build(Inquiry(question="Why?"), passages)
    assert len(builder._counts) <= MAX_KEPT_COUNTS
