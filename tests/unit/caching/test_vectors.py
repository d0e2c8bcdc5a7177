"""Vectors that are remembered: the same numbers, computed once, each tenant's apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gateway.caching.shared import Purge
from gateway.caching.vectors import RememberedVectors
from gateway.errors import UpstreamUnavailable
from tests.fakes.engines import HashEmbedder, vectors

TEXTS = ["a tide gate", "a lock", "a tide gate", "a weir"]


class Counted(dict[str, int]):
    def __call__(self, result: str, number: int) -> None:
        self[result] = self.get(result, 0) + number


def remembered(max_bytes: int = 2**20, **options: Any) -> tuple[RememberedVectors, HashEmbedder]:
    embedder = HashEmbedder()
    return RememberedVectors(embedder, max_bytes=max_bytes, **options), embedder


async def embed(store: RememberedVectors, texts: Sequence[str], tenant: str = "acme", **how: Any) -> Any:
    return await store.embed(tenant, texts, **({"role": "passage", "timeout_s": 1.0} | how))


async def test_each_text_is_embedded_once_and_rows_keep_their_order() -> None:
    counted = Counted()
    store, embedder = remembered(count=counted)
    assert np.array_equal(await embed(store, TEXTS), vectors(TEXTS))
    assert np.array_equal(
        await embed(store, [*reversed(TEXTS), "a sluice"]), vectors([*reversed(TEXTS), "a sluice"])
    )
    assert embedder.texts == ["a tide gate", "a lock", "a weir", "a sluice"]
    assert counted == {"hit": 3, "miss": 4}


@pytest.mark.parametrize("how", [{"tenant": "rival"}, {"role": "query"}, {"embedder": "tiny"}], ids=repr)
async def test_another_tenant_role_or_model_is_another_vector(how: dict[str, str]) -> None:
    store, embedder = remembered()
    await embed(store, TEXTS[:2])
    await embed(store, TEXTS[:2], **how)
    assert embedder.texts == TEXTS[:2] * 2


async def test_texts_are_told_apart_whole() -> None:
    store, embedder = remembered()
    await embed(store, ["ab", "c"])
    await embed(store, ["a", "bc", "\ud800"])
    assert embedder.texts == ["ab", "c", "a", "bc", "\ud800"]


async def test_it_stays_within_its_bytes_and_without_room_keeps_nothing() -> None:
    store, _ = remembered(max_bytes=100_000)
    await embed(store, [f"text {number}" for number in range(300)])
    assert 0 < store.num_bytes <= 100_000
    store, embedder = remembered(max_bytes=0)
    for _ in range(2):
        assert np.array_equal(await embed(store, TEXTS[:1]), vectors(TEXTS[:1]))
    assert (len(store), len(embedder.texts)) == (0, 2)


async def test_a_purge_and_an_opt_out_leave_nothing() -> None:
    store, embedder = remembered(opted_out=frozenset({"rival"}))
    await embed(store, TEXTS)
    await embed(store, TEXTS, tenant="rival")
    assert store.forget(Purge(tenant_id="acme")) == 3
    assert len(store) == 0
    assert len(embedder.texts) == 3 + len(TEXTS)


async def test_an_error_is_passed_on_and_nothing_is_kept() -> None:
    class Failing(HashEmbedder):
        async def embed(self, texts: Sequence[str], **_: Any) -> Any:
            raise UpstreamUnavailable("away")

    store = RememberedVectors(Failing(), max_bytes=2**20)
    with pytest.raises(UpstreamUnavailable):
        await embed(store, TEXTS)
    assert len(store) == 0
