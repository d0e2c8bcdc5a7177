"""Collections of several embedders behind one question, and the moment in which one changes to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.errors import UpstreamProtocolError
from gateway.retrieval.several_embedders import MAX_REMEMBERED, OtherEmbedders, fuse
from gateway.retrieval.triton_models import TritonRetriever
from gateway.tensors import Model
from gateway.types import DEFAULT_EMBEDDER, Passage, Scope
from tests.fakes.engines import passage

SCOPE = Scope(tenant_id="t", collections=["c"], k=3)


def _passages(*texts: str, rank_score: float = 0.5) -> list[Passage]:
    return [
        msgspec.structs.replace(
            _of_chunks(text, int.from_bytes(text.encode())), rank_score=rank_score - number / 100
        )
        for number, text in enumerate(texts)
    ]


def _texts(passages: list[Passage]) -> list[str]:
    return [each.text for each in passages]


class Index:
    """A client whose `retrieve` finds the passages of the embedder asked with. calls: embedders, in order."""

    def __init__(self, **held: list[Passage]) -> None:
        self.held = {DEFAULT_EMBEDDER if name == "default" else name: found for name, found in held.items()}
        self.calls: list[str] = []

    async def infer(self, model: Model, inputs: Mapping[str, Any], *, timeout_s: float) -> Any:
        embedder = inputs.get("embedder", DEFAULT_EMBEDDER.encode()).decode()
        assert msgspec.json.decode(inputs["scope"], type=Scope).embedder == embedder
        self.calls.append(embedder)
        return self.answer(embedder)

    def answer(self, embedder: str) -> Any:
        others = sorted(name for name, found in self.held.items() if found and name != embedder)
        return {
            "embedding": np.ones((1, 4), np.float32),
            "passages": [msgspec.json.encode(self.held.get(embedder, []))],
            "search_ms": np.ones((1, 1), np.float32),
            "epoch": np.ones((1, 1), np.int64),
            "embedders": [msgspec.json.encode(others)],
        }


async def _ask(client: Index, retriever: TritonRetriever | None = None) -> list[str]:
    retriever = retriever or TritonRetriever(client)  # type: ignore[arg-type]
    return _texts((await retriever.retrieve("q", SCOPE, timeout_s=1)).passages)


async def test_one_embedder_is_one_call() -> None:
    client = Index(default=_passages("a", "b"))
    assert await _ask(client) == ["a", "b"]
    assert client.calls == [DEFAULT_EMBEDDER]


async def test_another_embedder_is_asked_too_and_both_are_found() -> None:
    client = Index(default=_passages("a"), small=_passages("b"))
    assert sorted(await _ask(client)) == ["a", "b"]
    assert client.calls == [DEFAULT_EMBEDDER, "small"]


async def test_what_was_needed_once_is_asked_at_once_until_it_is_not() -> None:
    client = Index(small=_passages("b"))
    retriever = TritonRetriever(client)  # type: ignore[arg-type]
    for _ in range(2):
        assert await _ask(client, retriever) == ["b"]
    assert client.calls == [DEFAULT_EMBEDDER, "small"] * 2
    client.held = {DEFAULT_EMBEDDER: _passages("b")}
    client.calls.clear()
    for _ in range(2):
        assert await _ask(client, retriever) == ["b"]
    assert client.calls == [DEFAULT_EMBEDDER, "small", DEFAULT_EMBEDDER]


class Moving(Index):
    """Its one passage goes to the other embedder just after the first call."""

    def answer(self, embedder: str) -> Any:
        answer = super().answer(embedder)
        if len(self.calls) == 1:
            self.held = {"small": [], DEFAULT_EMBEDDER: self.held["small"]}
        return answer


async def test_a_passage_that_moves_between_two_calls_is_found_all_the_same() -> None:
    client = Moving(small=_passages("b"))
    assert await _ask(client) == ["b"]
    assert client.calls == [DEFAULT_EMBEDDER, "small", DEFAULT_EMBEDDER]


class Refusing(Index):
    def answer(self, embedder: str) -> Any:
        if embedder == "small":
            raise UpstreamProtocolError("no", detail="there is no 'small'")
        return super().answer(embedder)


async def test_an_embedder_that_is_needed_and_missing_is_an_error_not_silence() -> None:
    client = Refusing(default=_passages("a"), small=_passages("b"))
    retriever = TritonRetriever(client)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(UpstreamProtocolError):
            await _ask(client, retriever)


async def test_an_embedder_that_is_not_needed_any_more_may_be_missing() -> None:
    client = Index(default=_passages("a"), small=_passages("b"))
    retriever = TritonRetriever(client)  # type: ignore[arg-type]
    await _ask(client, retriever)
    gone = Refusing(default=_passages("a"))
    retriever._client = gone  # type: ignore[assignment]
    assert await _ask(gone, retriever) == ["a"]


def _of_chunks(text: str, *chunk_ids: int, collection_id: str = "c") -> Passage:
    found = passage(chunk_ids[0], text)
    return msgspec.structs.replace(found, chunk_ids=list(chunk_ids), collection_id=collection_id)


async def test_a_chunk_that_two_embedders_find_while_it_moves_is_given_once() -> None:
    joined, part, other = _of_chunks("one two", 1, 2), _of_chunks("two", 2), _of_chunks("three", 3)
    assert await _ask(Index(default=[joined, other], small=[part])) == ["one two", "three"]
    assert await _ask(Index(default=[other, part], small=[joined])) == ["two", "three"]


async def test_a_chunk_of_another_collection_is_another_chunk() -> None:
    here, there = _of_chunks("one", 1), _of_chunks("two", 1, collection_id="d")
    assert await _ask(Index(default=[here], small=[there])) == ["one", "two"]


def test_what_a_dropped_passage_held_besides_may_still_be_found() -> None:
    lists = [[_of_chunks("two", 2)], [_of_chunks("one two", 1, 2)], [_of_chunks("one", 1)]]
    assert _texts(fuse(lists, 5)) == ["two", "one"]


def test_fused_passages_take_turns_and_what_both_found_comes_first() -> None:
    first, second = _passages("a", "b", "both"), _passages("c", "both", "d", rank_score=0.4)
    assert _texts(fuse([first, second], 4)) == ["both", "a", "c", "b"]


def test_near_copies_that_two_embedders_find_are_given_once_and_other_numbers_are_not() -> None:
    text = "Whoever opens a valve writes down when and why, with a name, in the book beside the inner door."
    near, other = (
        text.replace("Whoever", "whoever").replace(" and why", "  and why"),
        text.replace("a name", "3 names"),
    )
    first, second = _passages(text, "Something else."), _passages(near, other)
    assert _texts(fuse([first, second], 5)) == [text, "Something else.", other]


def test_the_rank_score_never_rises_down_the_list() -> None:
    scores = [
        each.rank_score for each in fuse([_passages("a", rank_score=0.2), _passages("b", rank_score=0.9)], 2)
    ]
    assert scores == sorted(scores, reverse=True)


def test_one_list_stays_as_it_is() -> None:
    only = _passages("a", "b")
    assert fuse([[], only, []], 1) == only
    assert fuse([[], []], 3) == []


def test_what_is_remembered_is_bounded_and_by_tenant_and_collections() -> None:
    others = OtherEmbedders()
    for number in range(MAX_REMEMBERED + 1):
        others.remember(Scope(tenant_id=str(number)), ["small"])
    assert others.expected(Scope(tenant_id="0")) == ()
    assert others.expected(Scope(tenant_id="1")) == ("small",)
    assert others.expected(Scope(tenant_id="1", collections=["c"])) == ()
