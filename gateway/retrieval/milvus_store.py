"""ports.VectorStore over Milvus. Nothing of the corpus is held here but the state and the removals not yet deleted.

A thread looks at the state every POLL_S; searches ask for the rows of that epoch. When Milvus is away searches fail at
once, and go on by themselves when it is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from gateway.errors import InvalidRequest, TidegateError, UpstreamError, UpstreamTimeout
from gateway.filters import matches
from gateway.ports import SearchRequest
from gateway.retrieval.milvus_client import LIVE, Milvus, State, Table, away
from gateway.retrieval.milvus_filter import expression, given_attributes, unkey, visible
from gateway.retrieval.milvus_ranking import ranked
from gateway.retrieval.milvus_rows import PASSAGE_FIELDS, cosine_of, lexical_terms, passage_of
from gateway.retrieval.passages import NUM_CANDIDATES
from gateway.settings import Settings
from gateway.storage import feed
from gateway.storage.corpus import RemovalRow
from gateway.storage.database import Database
from gateway.types import Passage, Scope

POLL_S = 0.1
START_WAIT_S = 3.0
STALE_S = 5.0  # an older state is not searched by: what it shows may be deleted soon after (milvus_follower.GRACE_S)
MAX_VIEW_S = (
    14.0  # after that, what a state shows may be half deleted: an answer that took so long is not given
)
NUM_THREADS = 16
MAX_K = 64
OVERFETCH = 8  # rows beyond the candidates, so that copies can be collapsed without a second search
MAX_FETCH = 4096
MAX_QUERY_TERMS = 256

Vector = npt.NDArray[np.float32]
Hits = list[dict[str, Any]]
OUTAGE = (TidegateError, sa.exc.SQLAlchemyError)

log = logging.getLogger(__name__)


class View(NamedTuple):
    """What searches go by. removals: (tenant, collection) -> file, None = all -> epoch of the removal."""

    state: State
    removals: dict[tuple[str, str], dict[str | None, int]]
    log: list[RemovalRow]
    seen_s: float  # when the state was asked for


def open_milvus_store(settings: Settings, database: Database) -> MilvusStore:
    milvus = Milvus(settings.milvus_uri, settings.milvus_token, timeout_s=settings.milvus_timeout_s)
    return MilvusStore(database, milvus)


class MilvusStore:
    def __init__(
        self,
        database: Database,
        milvus: Milvus,
        *,
        max_view_s: float = MAX_VIEW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._milvus = milvus
        self._max_view_s = max_view_s
        self._clock = clock
        self._view: View | None = None
        self._refreshing = threading.Lock()  # an older state must not come after a newer one
        self._is_down = False
        self.has_refused_snapshot = False  # there is none: Milvus keeps its own state
        self._stop = threading.Event()
        self._poller = threading.Thread(target=self._run, name="milvus-state", daemon=True)
        self._is_doubtful = (
            False  # a search found Milvus away; until the state was read again the others do not wait
        )
        self._threads = ThreadPoolExecutor(NUM_THREADS, "milvus-search")
        self._word_threads = ThreadPoolExecutor(NUM_THREADS, "milvus-words")

    def start(self, wait_s: float) -> None:
        """Begin to follow the state. Waits a little for Milvus and never fails: searches say what is wrong."""
        deadline = self._clock() + min(wait_s, START_WAIT_S)
        while not self.poll() and self._clock() < deadline:
            time.sleep(POLL_S)
        self._poller.start()

    def close(self) -> None:
        self._stop.set()
        if self._poller.is_alive():
            self._poller.join()
        self._threads.shutdown(cancel_futures=True)
        self._word_threads.shutdown(cancel_futures=True)
        self._milvus.close()

    @property
    def epoch(self) -> int:
        return self._view.state.epoch if self._view else 0

    @property
    def num_chunks(self) -> int:
        """About: removed chunks count until they are deleted. Raises: UpstreamError."""
        tables = self._view.state.tables.values() if self._view else ()
        return sum(self._milvus.count(table.name) for table in tables)

    def poll(self) -> bool:
        """Take the state in; false while Milvus or the database is out, which is logged once."""
        try:
            self.refresh()
        except OUTAGE as error:
            if not self._is_down:
                log.warning("cannot follow Milvus, at epoch %d: %s", self.epoch, _detail(error))
            self._is_down = True
            return False
        if self._is_down:
            log.info("following Milvus again, at epoch %d", self.epoch)
        self._is_down = False
        return True

    def refresh(self) -> None:
        """Raises: one of OUTAGE."""
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        asked_s = self._clock()
        state = self._milvus.states().get(LIVE)
        if state is None:
            raise away("nothing has been written yet: the ingest process does that")
        old = self._view
        if old is not None and old.state == state:
            self._view, self._is_doubtful = old._replace(seen_s=asked_s), False
            return
        known: list[RemovalRow] = []
        after = state.purged
        if old is not None and old.state.generation == state.generation and old.state.epoch <= state.epoch:
            known = [each for each in old.log if each.epoch > state.purged]
            after = max(old.state.epoch, state.purged)
        with self._database.read() as conn:
            known += feed.removals_between(conn, after, state.epoch)
        self._view, self._is_doubtful = View(state, _latest(known), known, asked_s), False

    def embedders(self, scope: Scope) -> list[str]:
        """Other embedders than the scope's that have chunks in its collections, sorted. Raises: UpstreamError."""
        view = self._fresh()
        condition = visible(scope.tenant_id, scope.collections, view.state.epoch, view.removals)
        others = {
            embedder: table for embedder, table in view.state.tables.items() if embedder != scope.embedder
        }
        found = sorted(
            embedder
            for embedder, table in others.items()
            if self._milvus.has_rows(table.name, condition, timestamp=view.state.timestamp)
        )
        self._check_still_whole(view)
        return found

    def search(self, requests: Sequence[SearchRequest]) -> list[bytes | InvalidRequest]:
        view = self._fresh()
        searches = [_Search(self._milvus, view, request, self._word_threads) for request in requests]
        answers = [self._threads.submit(each.run) for each in searches]
        try:
            found = [_answer(each) for each in answers]
        except UpstreamError:
            self._is_doubtful = True
            raise
        finally:
            for each in answers:
                each.cancel()
        self._check_still_whole(view)
        return found

    def _fresh(self) -> View:
        view = self._view
        if view is None or self._is_doubtful or self._clock() - view.seen_s > STALE_S:
            raise away("Milvus has not told its state for a while")
        return view

    def _check_still_whole(self, view: View) -> None:
        """Raises: UpstreamTimeout when rows that the view shows may have been deleted meanwhile."""
        if self._clock() - view.seen_s > self._max_view_s:
            raise UpstreamTimeout("The vector store did not answer in time.", code="vector_store_timeout")

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            self.poll()


class _Search:
    """One request against one view."""

    def __init__(
        self, milvus: Milvus, view: View, request: SearchRequest, word_threads: ThreadPoolExecutor
    ) -> None:
        self._milvus = milvus
        self._view = view
        self._word_threads = word_threads
        self._scope = request.scope
        self._embedding = request.embedding
        self._terms = lexical_terms(request.text)[:MAX_QUERY_TERMS]

    def run(self) -> bytes:
        """Raises: InvalidRequest, UpstreamError."""
        scope = self._scope
        if not 1 <= scope.k <= MAX_K:
            raise InvalidRequest(f"k must be between 1 and {MAX_K}, not {scope.k}.", param="k")
        table = self._view.state.tables.get(scope.embedder)
        query = _unit(self._embedding, table.dim if table else None)
        if table is None:
            return b"[]"
        limit = max(scope.k, NUM_CANDIDATES) + OVERFETCH
        while True:
            passages, is_all = self._fetched(table, query, limit)
            if len(passages) >= scope.k or is_all or limit >= MAX_FETCH:
                return msgspec.json.encode(passages[: max(scope.k, NUM_CANDIDATES)])
            limit = min(4 * limit, MAX_FETCH)

    def _fetched(self, table: Table, query: Vector, limit: int) -> tuple[list[Passage], bool]:
        """The passages among the `limit` best rows of each kind, and whether there are no others."""
        scope, state = self._scope, self._view.state
        condition = visible(scope.tenant_id, scope.collections, state.epoch, self._view.removals)
        wanted = expression(scope.filters)
        condition = f"{condition} and {wanted}" if wanted else condition
        fields = [*PASSAGE_FIELDS, "attributes"] if scope.filters else [*PASSAGE_FIELDS]

        def ask(field: str, data: Any, fields: Sequence[str]) -> Hits:
            return self._milvus.search(
                table.name,
                data,
                field=field,
                expression=condition,
                limit=limit,
                fields=fields,
                timestamp=state.timestamp,
            )

        has_words = table.is_lexical and bool(self._terms) and scope.ranking != "dense"
        is_lexical_only = has_words and scope.ranking == "lexical"
        by_words: Future[Hits] | None = None
        if has_words:
            by_words = self._word_threads.submit(ask, "sparse", " ".join(self._terms), [*fields, "vector"])
        dense = [] if is_lexical_only else ask("vector", query.tolist(), fields)
        lexical = by_words.result() if by_words is not None else []
        found: dict[int, Passage] = {}
        for hit in filter(self._is_wanted, lexical):
            cosine = cosine_of(query, hit["vector"])
            # The sign of BM25 is told differently by different servers.
            found[hit["id"]] = passage_of(hit["id"], hit, cosine=cosine, lexical=abs(hit["distance"]))
        for hit in filter(self._is_wanted, dense):
            if hit["id"] not in found:
                found[hit["id"]] = passage_of(hit["id"], hit, cosine=hit["distance"], lexical=0.0)
        is_all = len(dense) < limit and len(lexical) < limit
        floor = _floor(lexical, limit) if table.is_lexical else None
        return ranked(found, self._terms, scope.ranking, floor=floor), is_all

    def _is_wanted(self, hit: dict[str, Any]) -> bool:
        """What the expression could not say in full."""
        collection_id, file_id = unkey(hit["collection"]), unkey(hit["file"])
        removals = self._view.removals.get((self._scope.tenant_id, collection_id), {})
        if hit["epoch"] < max(removals.get(file_id, 0), removals.get(None, 0)):
            return False
        filters = self._scope.filters
        return filters is None or matches(filters, given_attributes(hit["attributes"]))


def _answer(search: Future[bytes]) -> bytes | InvalidRequest:
    try:
        return search.result()
    except InvalidRequest as error:
        return error


def _floor(lexical: Hits, limit: int) -> float:
    """What a chunk that the lexical search did not give cannot exceed."""
    return abs(lexical[-1]["distance"]) if len(lexical) == limit else 0.0


def _unit(embedding: Vector, dim: int | None) -> Vector:
    """The vector at length 1. Raises: InvalidRequest for a wrong size, zero, NaN and infinity."""
    if embedding.ndim != 1 or (dim is not None and embedding.shape != (dim,)):
        wanted = f"{dim} numbers" if dim is not None else "one dimension"
        raise InvalidRequest(f"The embedding must have {wanted}, not shape {list(embedding.shape)}.")
    square = float(np.dot(embedding, embedding))
    if not 0.0 < square < float("inf"):  # false for NaN too
        raise InvalidRequest("The embedding must be finite and not zero.")
    return embedding / np.float32(square**0.5)


def _latest(removals: Sequence[RemovalRow]) -> dict[tuple[str, str], dict[str | None, int]]:
    latest: dict[tuple[str, str], dict[str | None, int]] = {}
    for each in removals:
        files = latest.setdefault((each.tenant_id, each.collection_id), {})
        files[each.file_id] = max(each.epoch, files.get(each.file_id, 0))
    return latest


def _detail(error: Exception) -> str:
    return error.detail or error.message if isinstance(error, TidegateError) else str(error)
