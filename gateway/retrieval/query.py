"""One search over one generation: nearest rows and best words of every request, fused into candidates. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.errors import InvalidRequest
from gateway.retrieval.fusion import rank_scores
from gateway.retrieval.lexical import NO_HITS, Hits, LexicalQuery, LexicalView
from gateway.retrieval.nearest import Mask, Vectors
from gateway.retrieval.passages import NUM_CANDIDATES, collapsed
from gateway.retrieval.shelf import Shelf, Tenants
from gateway.retrieval.table import Table
from gateway.types import Passage

if TYPE_CHECKING:
    from gateway.ports import SearchRequest
    from gateway.types import Scope

MAX_K = 64
OVERFETCH = 8  # beyond what is asked for, so that copies can be collapsed without a second search
MAX_FILES_NAMED = 2048  # in a lexical query; hits of more files are sorted out afterwards
MAX_LEXICAL_HITS = 65_536  # looked through for those that a filter lets pass

Ints = npt.NDArray[np.int64]
_encode = msgspec.json.Encoder().encode


class Place(NamedTuple):
    """A table to search. files, mask: what the filter lets pass, by file and by row; None = everything."""

    collection_id: str
    shelf: Shelf
    table: Table
    files: Mask | None
    mask: Mask | None


class Plan(NamedTuple):
    """A request that can be answered. vector: [D], unit length; limit: candidates to give."""

    request: SearchRequest
    vector: Vectors
    places: list[Place]
    filter_key: bytes
    limit: int


class Found(NamedTuple):
    """Candidates of one plan. Shapes: all [N]; place: number in plan.places, row: in its table."""

    place: Ints
    row: Ints
    chunk: Ints


def search(
    tenants: Tenants, lexical: LexicalView, requests: Sequence[SearchRequest]
) -> list[bytes | InvalidRequest]:
    """See ports.VectorStore."""
    answers: list[bytes | InvalidRequest] = [b"[]"] * len(requests)
    plans: dict[int, Plan] = {}
    for number, request in enumerate(requests):
        try:
            plan = _plan(tenants, request)
        except InvalidRequest as error:
            answers[number] = error
            continue
        if plan.places:
            plans[number] = plan
    dense = _nearest_of_all(list(plans.values()))
    for (number, plan), found in zip(plans.items(), dense, strict=True):
        answers[number] = _encode(_candidates(plan, lexical, found))
    return answers


def unit(embedding: Vectors, dim: int | None = None) -> Vectors:
    """The vector at length 1. Raises: InvalidRequest for a wrong size, zero, NaN and infinity."""
    if embedding.ndim != 1 or len(embedding) != (dim or len(embedding)):
        wanted = f"{dim} numbers" if dim else "one row"
        raise InvalidRequest(f"The embedding must have {wanted}, not shape {list(embedding.shape)}.")
    embedding = np.asarray(embedding, np.float32)
    square = float(np.dot(embedding, embedding))
    if not 0.0 < square < float("inf"):  # false for NaN too
        raise InvalidRequest("The embedding must be finite and not zero.")
    return embedding if abs(square - 1.0) < 1e-6 else embedding / np.float32(square**0.5)


def shelves_of(tenants: Tenants, scope: Scope) -> list[Shelf]:
    """The collections that the scope names, each once; all of the tenant's when it names none."""
    return [shelf for _, shelf in _named_shelves(tenants, scope)]


def _named_shelves(tenants: Tenants, scope: Scope) -> Iterable[tuple[str, Shelf]]:
    of_tenant = tenants.get(scope.tenant_id, {})
    names = dict.fromkeys(scope.collections) if scope.collections else of_tenant
    return [(name, of_tenant[name]) for name in names if name in of_tenant]


def _plan(tenants: Tenants, request: SearchRequest) -> Plan:
    scope = request.scope
    if not 1 <= scope.k <= MAX_K:
        raise InvalidRequest(f"k must be between 1 and {MAX_K}, not {scope.k}.", param="k")
    vector = unit(request.embedding)
    key = _encode(scope.filters) if scope.filters is not None else b""
    places = []
    for name, shelf in _named_shelves(tenants, scope):
        table = shelf.tables.get(scope.embedder)
        if table is None:
            continue
        if table.dim != len(vector):
            raise InvalidRequest(f"The embedding must have {table.dim} numbers, not {len(vector)}.")
        files = shelf.files.allowed(scope.filters) if scope.filters is not None else None
        if files is None or files.any():
            places.append(Place(name, shelf, table, files, table.mask(files, key)))
    return Plan(request, vector, places, key, max(scope.k, NUM_CANDIDATES))


def _nearest_of_all(plans: list[Plan]) -> list[Found]:
    """Each table is asked once for all plans that want it under the same filter."""
    groups: dict[tuple[int, bytes], list[tuple[int, int]]] = defaultdict(list)
    for number, plan in enumerate(plans):
        if plan.request.scope.ranking != "lexical":
            for at, place in enumerate(plan.places):
                groups[place.table.number, plan.filter_key].append((number, at))
    parts: list[list[tuple[int, Ints]]] = [[] for _ in plans]
    for members in groups.values():
        first, at = members[0]
        place = plans[first].places[at]
        queries = np.stack([plans[number].vector for number, _ in members])
        limit = max(plans[number].limit for number, _ in members)
        for (number, at), rows in zip(members, _distinct_rows(place, queries, limit), strict=True):
            parts[number].append((at, rows))
    return [_joined(plan, part) for plan, part in zip(plans, parts, strict=True)]


def _distinct_rows(place: Place, queries: Vectors, limit: int) -> list[Ints]:
    """For each query the nearest rows, with at least `limit` different texts among them where there are as many."""
    table, fetch = place.table, limit + OVERFETCH
    found: list[Ints] = [np.empty(0, np.int64)] * len(queries)
    waiting = list(range(len(queries)))
    while waiting:
        nearest = table.nearest(queries[waiting], fetch, place.mask)
        short = []
        for number, rows in zip(waiting, nearest.rows, strict=True):
            rows = rows[rows >= 0]
            found[number] = rows
            if len(rows) >= fetch and len(np.unique(table.columns.text_hash[rows])) < limit:
                short.append(number)
        waiting, fetch = short, fetch * 4
    return found


def _joined(plan: Plan, parts: Iterable[tuple[int, Ints]]) -> Found:
    """The rows of several tables as one list, each row once."""
    found = [
        Found(np.full(len(rows), at), rows, plan.places[at].table.columns.chunk[rows]) for at, rows in parts
    ]
    if not found:
        empty = np.empty(0, np.int64)
        return Found(empty, empty, empty)
    return Found(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _candidates(plan: Plan, lexical: LexicalView, dense: Found) -> list[Passage]:
    scope = plan.request.scope
    wanted, scored = LexicalQuery(None, 0.0), NO_HITS
    found = dense
    if scope.ranking != "dense":
        wanted = lexical.query(
            plan.request.text, {place.table.number: place.table.num_live for place in plan.places}
        )
        scored, more = _lexical_rows(plan, lexical, wanted)
        found = _united(dense, more)
    cosines = _cosines(plan, found)
    scores = _scores_of(found.chunk, scored)
    if scope.ranking == "hybrid":
        unscored = found.chunk[scores == 0.0]
        scores = np.maximum(scores, _scores_of(found.chunk, lexical.scored(wanted, unscored.tolist())))
    ranks = np.round(rank_scores(cosines, scores, wanted.scale, scope.ranking), 6)
    order = _best_texts(plan, found, ranks, cosines)
    passages = [_passage(plan, found, i, cosine=cosines[i], lexical=scores[i], rank=ranks[i]) for i in order]
    return collapsed(passages)[: plan.limit]


def _lexical_rows(plan: Plan, lexical: LexicalView, wanted: LexicalQuery) -> tuple[Hits, Found]:
    """The best chunks by words, as far as they are searchable here, and where they are."""
    files = _files_named(plan)
    limit = plan.limit + OVERFETCH
    while True:
        hits = lexical.best(wanted, limit, files)
        parts = []
        for at, place in enumerate(plan.places):
            rows = place.table.find(hits.chunk_ids)
            rows = rows[rows >= 0]
            parts.append((at, rows if place.mask is None else rows[place.mask[rows]]))
        found = _joined(plan, parts)
        is_enough = _num_texts(plan, found) >= plan.limit or limit >= MAX_LEXICAL_HITS
        if len(hits.chunk_ids) < limit or is_enough:
            return hits, found
        limit *= 4


def _files_named(plan: Plan) -> list[int] | None:
    """The files that the filter lets pass, as the lexical index numbers them; None = sort out afterwards."""
    if not plan.filter_key:
        return None
    named: list[int] = []
    for place in plan.places:
        numbers = np.flatnonzero(place.files) if place.files is not None else np.empty(0, np.int64)
        if len(named) + len(numbers) > MAX_FILES_NAMED:
            return None
        named += [place.table.file_key(number) for number in numbers.tolist()]
    return named


def _num_texts(plan: Plan, found: Found) -> int:
    return len(np.unique(_hashes(plan, found)))


def _united(dense: Found, more: Found) -> Found:
    """Both, each chunk once."""
    is_new = ~np.isin(more.chunk, dense.chunk)
    return Found(*(np.concatenate([one, other[is_new]]) for one, other in zip(dense, more, strict=True)))


def _cosines(plan: Plan, found: Found) -> Vectors:
    """Counted again for all, so that a score does not depend on what else was searched at the same time."""
    cosines = np.zeros(len(found.row), np.float32)
    for at, place in enumerate(plan.places):
        here = found.place == at
        # Not `@`: the threads of BLAS cost more than so few rows, and spin beside the embedding model.
        cosines[here] = np.einsum("nd,d->n", place.table.vectors.taken(found.row[here]), plan.vector)
    return cosines


def _scores_of(chunks: Ints, hits: Hits) -> npt.NDArray[np.float32]:
    scores = dict(zip(hits.chunk_ids.tolist(), hits.scores.tolist(), strict=True))
    return np.array([scores.get(chunk, 0.0) for chunk in chunks.tolist()], np.float32)


def _hashes(plan: Plan, found: Found) -> npt.NDArray[np.uint64]:
    hashes = np.zeros(len(found.row), np.uint64)
    for at, place in enumerate(plan.places):
        here = found.place == at
        hashes[here] = place.table.columns.text_hash[found.row[here]]
    return hashes


def _best_texts(plan: Plan, found: Found, ranks: Vectors, cosines: Vectors) -> list[int]:
    """Numbers of the best candidates, each text once, ties to the lower chunk id; some more than the limit."""
    # Below a cosine of 0 all ranks are 0.
    order = np.lexsort((found.chunk, -np.round(cosines, 6), -ranks))
    _, firsts = np.unique(_hashes(plan, found)[order], return_index=True)
    best: list[int] = order[np.sort(firsts)][: plan.limit + OVERFETCH].tolist()
    return best


def _passage(
    plan: Plan, found: Found, number: int, *, cosine: np.float32, lexical: np.float32, rank: np.float32
) -> Passage:
    place, row = plan.places[int(found.place[number])], int(found.row[number])
    columns, files, chunk_id = place.table.columns, place.shelf.files, int(found.chunk[number])
    file = int(columns.file[row])
    return Passage(
        chunk_id=chunk_id,
        collection_id=place.collection_id,
        file_id=files.ids[file],
        filename=files.names[file],
        ordinal=int(columns.ordinal[row]),
        heading=place.table.headings[int(columns.heading[row])],
        start=int(columns.start[row]),
        end=int(columns.end[row]),
        text=place.table.texts[row].decode(),
        page=int(columns.page[row]),
        chunk_ids=[chunk_id],
        lexical=round(float(lexical), 6),
        rank_score=round(float(rank), 6),
        score=round(float(cosine), 6),
    )
