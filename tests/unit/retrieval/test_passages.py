"""Candidates become passages: copies once, neighbours as one, exact to the character."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from gateway.retrieval.passages import collapsed, top_merged
from gateway.types import Passage

SOURCE = "".join(f"Sentence {number} of the file says so. " for number in range(40))


def passage(
    number: int, text: str, *, start: int = 0, file: str = "f", collection: str = "c", score: float = 0.5
) -> Passage:
    return Passage(
        chunk_id=number,
        collection_id=collection,
        file_id=file,
        filename=f"{file}.txt",
        ordinal=number,
        heading="Guide",
        start=start,
        end=start + len(text),
        text=text,
        page=number,
        chunk_ids=[number],
        score=score,
    )


def cut(number: int, start: int, end: int, **where: str) -> Passage:
    return passage(number, SOURCE[start:end], start=start, **where)


def spans(passages: Sequence[Passage]) -> list[tuple[int, int]]:
    return [(one.start, one.end) for one in passages]


def test_overlapping_neighbours_become_one_exact_passage() -> None:
    (merged,) = top_merged([cut(2, 80, 200), cut(1, 0, 100)], 5)
    assert (merged.start, merged.end) == (0, 200)
    assert merged.text == SOURCE[0:200]
    assert merged.chunk_ids == [1, 2]
    assert (merged.chunk_id, merged.ordinal) == (2, 2)  # the best part
    assert merged.page == 1  # of the start


def test_neighbours_that_touch_become_one() -> None:
    (merged,) = top_merged([cut(1, 0, 100), cut(2, 100, 200)], 5)
    assert merged.text == SOURCE[:200]


def test_white_space_between_two_chunks_of_a_section_is_kept_in_its_length() -> None:
    source = "One paragraph.\n\nAnother one."
    first, second = passage(1, source[:14]), passage(2, source[16:], start=16)
    (merged,) = top_merged([second, first], 5)
    assert (merged.text, merged.start, merged.end) == (source, 0, len(source))


def test_gap_stays_between_sections_chunks_that_are_not_next_and_what_is_too_far() -> None:
    first = cut(1, 0, 100)
    for other in (
        msgspec.structs.replace(cut(2, 102, 200), heading="Elsewhere"),
        cut(3, 102, 200),
        cut(2, 105, 200),
    ):
        assert len(top_merged([first, other], 5)) == 2


@pytest.mark.parametrize(
    "other", [{"file": "g"}, {"collection": "d"}], ids=["other-file", "other-collection"]
)
def test_only_neighbours_of_one_file_of_one_collection_merge(other: dict[str, str]) -> None:
    assert len(top_merged([cut(1, 0, 100), cut(2, 80, 200, **other)], 5)) == 2


def test_merging_makes_room_for_another_passage() -> None:
    best = [cut(1, 0, 100), cut(2, 100, 200), cut(9, 400, 500), cut(20, 900, 1000)]
    assert spans(top_merged(best, 2)) == [(0, 200), (400, 500)]


def test_chunk_below_the_cut_is_not_drawn_in_by_its_neighbour() -> None:
    best = [cut(1, 0, 100), cut(9, 400, 500), cut(20, 900, 1000), cut(2, 102, 200)]
    assert spans(top_merged(best, 2)) == [(0, 100), (400, 500)]


def test_part_between_two_passages_unites_them_at_the_better_place() -> None:
    best = [cut(9, 900, 1000), cut(1, 0, 100), cut(3, 200, 300), cut(2, 100, 200)]
    merged = top_merged(best, 3)
    assert spans(merged) == [(900, 1000), (0, 300)]
    assert merged[1].chunk_ids == [1, 2, 3]
    assert merged[1].text == SOURCE[:300]


def test_merged_passage_keeps_to_the_longest_length() -> None:
    best = [cut(1, 0, 100), cut(2, 100, 200), cut(3, 200, 300)]
    assert spans(top_merged(best, 5, max_chars=200)) == [(0, 200), (200, 300)]


def test_chunk_inside_another_is_no_neighbour() -> None:
    assert len(top_merged([cut(1, 0, 300), cut(2, 100, 200)], 5)) == 2


@pytest.mark.parametrize("seed", range(20))
def test_any_selection_merges_into_stretches_with_exact_offsets(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts = np.cumsum(rng.integers(20, 90, 12))
    chunks = [
        cut(number, int(start), int(start) + int(rng.integers(60, 120)), file="fg"[number % 7 == 0])
        for number, start in enumerate(starts)
    ]
    order = rng.permutation(len(chunks))[: rng.integers(1, 12)]
    merged = top_merged([chunks[number] for number in order], 64)
    for one in merged:
        assert len(one.text) == one.end - one.start
        written = SOURCE[one.start : one.end]
        assert all(a in (b, "\n") for a, b in zip(one.text, written, strict=True))
    assert sorted(part for one in merged for part in one.chunk_ids) == sorted(order.tolist())


def test_equal_texts_are_given_once() -> None:
    kept = collapsed([passage(1, "Same."), passage(2, "Other."), passage(3, "Same.", file="g", score=0.1)])
    assert [one.chunk_id for one in kept] == [1, 2]


LONG = (
    "Whoever opens a valve writes down when and why, with a name, in the book that hangs beside the inner door. "
    "The pump in the western gallery is checked every week by two people of the night shift and once a year by "
)


@pytest.mark.parametrize(
    ("one", "other", "is_copy"),
    [
        (LONG + "the maker.", LONG + "the  maker.", True),
        (LONG + "the maker.", LONG.replace("western", "Western") + "the Maker.", True),
        (LONG.replace("writes", "notes") + "it.", LONG + "it.", True),
        (LONG + "2019.", LONG + "2020.", False),
        (
            LONG + "the maker.",
            "Somebody else says quite another thing about the pump of the gallery, " * 2,
            False,
        ),
        ("Room 1 is free.", "Room 2 is free.", False),
    ],
    ids=["white-space", "case", "one-word", "other-year", "other-words", "other-number"],
)
def test_near_copies_are_told_from_texts_that_differ(one: str, other: str, is_copy: bool) -> None:
    kept = collapsed([passage(1, one), passage(2, other, score=0.495)])
    assert len(kept) == (1 if is_copy else 2)


def test_collapsing_keeps_the_order_and_the_fields() -> None:
    given = [passage(number, f"Text {number} about something.") for number in (5, 2, 9)]
    assert collapsed(given) == given
    assert collapsed([]) == top_merged([], 5) == []
    assert msgspec.json.decode(msgspec.json.encode(given), type=list[Passage]) == given
