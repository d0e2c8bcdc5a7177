"""Documents and answers through the service: HTTP in, a tier on another server out, as that server sees it.

A worker as it is built from its settings, over real sockets on both sides. The passages are cut by ingest from real
files; only the search is scripted.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.ingest.chunking import chunk_text
from gateway.ingest.parse import parse_file
from gateway.types import Passage
from tests.fakes.attacks import ATTACKS, CANARY_WORD, quotations
from tests.integration.test_escalation import QUESTION, RICH, Stand, running


@pytest_asyncio.fixture
async def stand(tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stand]:
    async with running(tmp_path, models_dir, monkeypatch, RICH, "large") as made:
        yield made


def passages_of(name: str, text: str) -> list[Passage]:
    """As a search would find them: all chunks of one file."""
    read = parse_file(text.encode(), name)
    chunks = chunk_text(read.text, max_chars=700, overlap_chars=100, style=read.style)
    return [
        Passage(
            chunk_id=number, collection_id="vs_1", file_id="file-1", filename=name, ordinal=number,
            heading=chunk.heading, start=chunk.start, end=chunk.end, text=read.text[chunk.start : chunk.end],
            score=0.8, rank_score=0.9,
        )
        for number, chunk in enumerate(chunks)
    ]  # fmt: skip


def strings(value: Any) -> list[str]:
    """Every text inside a JSON value, names included."""
    if isinstance(value, dict):
        return [found for name, each in value.items() for found in [name, *strings(each)]]
    if isinstance(value, list):
        return [found for each in value for found in strings(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda name: name.replace(" ", "-"))
async def test_an_order_in_a_document_reaches_the_server_as_a_quotation_alone(
    stand: Stand, attack: str
) -> None:
    order = ATTACKS[attack]
    heading = " ".join(order.split())
    passages = passages_of(f"{heading}.md", f"# {heading}\n\nPizarro sailed south.\n\n{order}\n\nHe won.\n")
    stand.retriever.passages = [RICH[0], *passages]
    told = await stand.ask()
    assert told.receipt["tier"] == "large"
    (body,) = stand.server.requests
    system, question = body["messages"]
    assert (system["role"], question) == ("system", {"role": "user", "content": QUESTION})
    insides = quotations(system["content"])  # fails where a tag of ours is opened or closed by the document
    assert len(insides) == len(passages) + 1
    assert CANARY_WORD not in insides[0]
    assert any("Pizarro sailed south." in inside for inside in insides[1:])
    sources, texts = zip(*(inside.split("\n", 1) for inside in insides[1:]), strict=True)
    assert all(CANARY_WORD in source for source in sources)
    assert CANARY_WORD in "".join(texts)
    elsewhere = [text for text in strings(body) if text != system["content"]]
    assert not any(CANARY_WORD in text for text in elsewhere)
    assert not any(mark in json.dumps(body) for mark in ("<|im_start|>", "<|im_end|>", "[/INST]", "</s>"))


async def test_a_citation_without_the_number_of_its_claim_is_taken_out_and_told(stand: Stand) -> None:
    stand.server.texts = ["Pizarro conquered Peru in 15", "50 [1]. He ", "conquered Peru in 1533 [", "1]."]
    told = await stand.ask()
    assert told.text == "Pizarro conquered Peru in 1550. He conquered Peru in 1533 [1]."
    assert told.receipt["unsupported_citations"] == 1
