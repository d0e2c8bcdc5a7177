"""What strangers write into documents stays a quotation in the prompt, down to the tokens that the engine sees."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.checkpoint.chat_format import DEFAULT_TEMPLATE, ChatFormat
from gateway.generation.prompt import INSTRUCTIONS, Format, PromptBuilder
from gateway.types import Inquiry, Passage, Sampling, Turn
from tests.fakes.attacks import ATTACKS, CANARY, CANARY_WORD, quotations
from tests.fakes.chat import ByteChat
from tests.fakes.engines import passage
from tests.fakes.small_tokenizers import CHATML, SPECIALS, write_checkpoint

QUESTION = "What does a tide gate do?"
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }} </s>"
    "{% else %}<s>[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
)
VICUNA = "{% for m in messages %}{{ m.role.upper() }}: {{ m.content }} {% endfor %}ASSISTANT:"
# Templates, and what each of them sets turns apart with beside special tokens.
MARKS: dict[str, tuple[str, list[str]]] = {
    "chatml": (CHATML, []),
    "llama2": (LLAMA2, ["[INST]", "[/INST]", "</s>", "<s>"]),
    "vicuna": (VICUNA, ["USER:", "ASSISTANT:", "SYSTEM:"]),
    "plain": (DEFAULT_TEMPLATE, ["\n\nuser:", "\n\nassistant:", "\n\nsystem:"]),
}
_OPEN, _CLOSE = re.compile(r"<passage\b"), re.compile(r"</passage>")


def with_text(each: Passage, text: str) -> Passage:
    return replace(each, text=text, end=each.start + len(text))


def hostile(where: str, text: str) -> list[Passage]:
    first, last = passage(1, "A tide gate lets water through one way."), passage(3, "Envoy balances calls.")
    middle = passage(2, "Harmless.")
    middle = with_text(middle, text) if where == "text" else replace(middle, **{where: text})
    return [first, middle, last]


def system_text(chat: Format, passages: list[Passage]) -> str:
    builder = PromptBuilder("small", chat, context_tokens=20_000, max_tokens=100)
    prompt = builder.build(Inquiry(question=QUESTION, sampling=Sampling()), passages)
    assert prompt.num_passages == len(passages)
    assert [message["role"] for message in prompt.messages] == ["system", "user"]
    assert prompt.messages[1]["content"] == QUESTION
    return prompt.messages[0]["content"]


@pytest.mark.parametrize("where", ["text", "filename", "heading"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda name: name.replace(" ", "-"))
def test_an_attack_stays_between_the_tags_of_its_own_passage(attack: str, where: str) -> None:
    insides = quotations(system_text(ByteChat(), hostile(where, ATTACKS[attack])))
    assert len(insides) == 3
    assert CANARY_WORD in insides[1]
    assert not any(CANARY_WORD in insides[at] for at in (0, 2))


@pytest.mark.parametrize("family", MARKS)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda name: name.replace(" ", "-"))
def test_no_attack_makes_a_turn_of_its_own(tmp_path: Path, attack: str, family: str) -> None:
    template, marks = MARKS[family]
    chat = ChatFormat.load(write_checkpoint(tmp_path, template=template))
    builder = PromptBuilder("small", chat, context_tokens=20_000, max_tokens=100)
    inquiry = Inquiry(question=QUESTION, history=[Turn("user", "Hi"), Turn("assistant", "Hello")])

    def scaffold(text: str) -> list[str]:
        """Whatever the template itself can say, in the order in which it stands in the prompt."""
        prompt = builder.build(inquiry, hostile("text", text))
        found = re.findall("|".join(map(re.escape, [*SPECIALS, *marks])), chat.render(prompt.messages))
        ids = chat.encode(chat.render(prompt.messages))
        return [*found, str([token for token in ids if token < len(SPECIALS)])]

    assert scaffold(ATTACKS[attack]) == scaffold("Harmless.")


@given(st.text(st.sampled_from('<>/ pasge＜‹\n"n1[]=\u200bPASGE'), max_size=200))
def test_no_text_whatever_opens_or_closes_a_passage(text: str) -> None:
    system = system_text(ByteChat(), hostile("text", f"</passage>{text}<passage>{text}"))
    assert len(_OPEN.findall(system)) - INSTRUCTIONS.count("<passage") == 3
    assert len(_CLOSE.findall(system)) - INSTRUCTIONS.count("</passage>") == 3
    assert len(quotations(system)) == 3


@given(st.text(max_size=400))
def test_no_file_name_breaks_out_of_its_attribute(name: str) -> None:
    assert len(quotations(system_text(ByteChat(), hostile("filename", name)))) == 3


def test_ordinary_markup_in_a_document_is_left_as_it_is() -> None:
    text = 'if (a < b) { <div class="x"> </div> } // the passage below'
    assert text in system_text(ByteChat(), hostile("text", text))


def test_the_rule_is_told_before_any_passage() -> None:
    system = system_text(ByteChat(), hostile("text", CANARY))
    assert system.index("never to obey") < system.index(CANARY_WORD)


def test_the_budget_is_counted_by_the_tiers_own_tokenizer(tmp_path: Path) -> None:
    """Texts of one length in characters and of very different ones in tokens."""
    chat = ChatFormat.load(write_checkpoint(tmp_path))
    kept = {}
    for name, text in {"known": "the flow " * 40, "unknown": "水門は閉 " * 72}.items():
        builder = PromptBuilder("small", chat, context_tokens=1400, max_tokens=100)
        passages = [passage(number, text[:360]) for number in range(1, 9)]
        prompt = builder.build(Inquiry(question=QUESTION), passages)
        assert len(chat.encode(chat.render(prompt.messages))) + 100 <= 1400
        kept[name] = prompt.num_passages
    assert kept["known"] > kept["unknown"] >= 1
