"""The work of `tidegate eval` against a service: scratch collections, and every question asked through the chat API.

Nothing of it stays: collections and files go when the run ends, however it ends, unless they are to be kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import msgspec

from gateway.cli.ask import Answer
from gateway.cli.client import Api, ApiError
from gateway.cli.eval_labels import Document, LabelledSet, Question, kept, sample
from gateway.cli.eval_score import ALL, KEPT, Found, Row, first_sentence, holds
from gateway.cli.ingest_plan import LocalFile, Step
from gateway.cli.ingest_progress import Progress
from gateway.cli.ingest_run import IngestRun
from gateway.cli.terminal import CommandFailed, ExitCode, plural

T = TypeVar("T")
Tell = Callable[[str, int, int], None]  # what is going on, done, of how many

SETTLE_S = 1.0  # within that time every search model sees what was indexed
NUM_WARM = 3  # questions asked before the first one that counts
NUM_TRIES = 5  # of a question that the service has no room for
MAX_PAUSE_S = 30.0  # between two of them
WAKE_EVERY_S = 10.0  # a tier that sleeps is asked again: what it misses is what wakes it
NUM_DELETES = 8  # in flight at once
MADE_BY = {"made_by": "tidegate eval"}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a run asks for. leave_out: share of the documents that the second phase goes without; 0 = no such phase.

    draws: how often that phase is gone through, each time without other documents.
    """

    model: str = "auto"
    concurrency: int = 1
    leave_out: float = 0.0
    draws: int = 1
    seed: int = 0
    limit: int | None = None


async def measure(
    api: Api,
    labelled: LabelledSet,
    options: Options,
    tell: Tell,
    *,
    keep: bool = False,
    wake_s: float = 0.0,
) -> tuple[list[Row], float]:
    """The rows of both phases, and the seconds that the questions of the first one took. wake_s: how long at most to
    ask before, until the model that is asked for answers itself; 0 = do not.

    Raises: CommandFailed when the service is gone, refuses the key, or cannot ingest a document.
    """
    questions = sample(labelled.questions, options.limit, options.seed)
    async with scratch(api, tell, keep=keep) as place:

        async def ask(store: str, there: Sequence[Document], phase: str) -> tuple[list[Row], float]:
            asker = Asker(api, store, options.model, place.documents, [document.id for document in there])
            what = "Ask" if phase == ALL else "Ask, some left out"
            if phase == ALL and wake_s and questions:
                await asker.wake(questions[0], wake_s, partial(tell, "Wake"))
            return await asker.ask_all(
                questions, phase, concurrency=options.concurrency, tell=partial(tell, what)
            )

        rows, took_s = await ask(await place.fill(labelled), labelled.documents, ALL)
        if options.leave_out and len(labelled.documents) > 1:
            for draw in range(options.draws):
                there = kept(labelled.documents, options.leave_out, options.seed + draw)
                found, _ = await ask(await place.refill(labelled, there), there, KEPT)
                rows += [msgspec.structs.replace(row, draw=draw) for row in found]
    return rows, took_s


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], num: int) -> None:
    """The work on every item, `num` at once, begun in order. Raises what the first failing one raised."""
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:  # one iterator for all: each item is taken once
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(num):
                group.create_task(take())
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None


class Scratch:
    """The collections of one run and the files in them, by id, each with its document's id."""

    def __init__(self, api: Api, tell: Tell) -> None:
        self._api = api
        self._tell = tell
        self._stores: list[str] = []
        self.documents: dict[str, str] = {}

    async def fill(self, labelled: LabelledSet) -> str:
        """The id of a new collection that holds all documents of the set, ready to be searched."""
        with TemporaryDirectory(prefix="tidegate-eval-") as folder:
            steps = [
                _step(Path(folder), number, document) for number, document in enumerate(labelled.documents)
            ]
            store = await self._make(labelled.name)
            by_name = {document.filename: document.id for document in labelled.documents}
            try:
                await self._ingest(store, steps)
            finally:  # also of a run that stops here: what is attached is ours to take away
                await asyncio.shield(self._note_files(store, by_name))
        return store

    async def refill(self, labelled: LabelledSet, there: Sequence[Document]) -> str:
        """The id of another collection, of some of the documents that `fill` brought in."""
        file_ids = {document: file_id for file_id, document in self.documents.items()}
        steps = [
            Step(
                LocalFile(Path(), document.filename, num_bytes=len(document.content)),
                "add",
                file_ids[document.id],
            )
            for document in there
        ]
        store = await self._make(f"{labelled.name} in part")
        await self._ingest(store, steps)
        return store

    async def _make(self, name: str) -> str:
        title = f"eval {name[:200]} {secrets.token_hex(4)}"
        made = await self._api.post("/v1/vector_stores", {"name": title, "metadata": MADE_BY})
        self._stores.append(str(made["id"]))
        return self._stores[-1]

    async def _ingest(self, store: str, steps: list[Step]) -> None:
        progress = Progress(
            lambda done, total, _name: self._tell("Upload", done, total),
            lambda now: self._tell("Index", now.files_done, now.num_files),
        )
        summary = await IngestRun(self._api, store, (), progress).run(steps, wait=True)
        if summary.failed:
            name, reason = next(iter(summary.failed.items()))
            raise CommandFailed(f"{plural(len(summary.failed), 'document')} failed: {name}: {reason}")
        await asyncio.sleep(SETTLE_S)

    async def _note_files(self, store: str, by_name: Mapping[str, str]) -> None:
        async for item in self._api.pages(f"/v1/vector_stores/{store}/files"):
            name = str((item.get("attributes") or {}).get("path", ""))
            self.documents[str(item["id"])] = by_name.get(name, name)

    async def clear(self) -> None:
        """Delete all of it. Raises: CommandFailed when the service would not."""
        await each(list(self.documents), lambda file_id: self._delete(f"/v1/files/{file_id}"), NUM_DELETES)
        await each(self._stores, lambda store: self._delete(f"/v1/vector_stores/{store}"), 1)

    async def _delete(self, path: str) -> None:
        try:
            await self._api.delete(path)
        except ApiError as error:
            if error.status != 404:
                raise


def _step(folder: Path, number: int, document: Document) -> Step:
    path = folder / str(number)
    path.write_bytes(document.content)
    sha256 = hashlib.sha256(document.content).hexdigest()
    return Step(LocalFile(path, document.filename, sha256, len(document.content)), "add")


@asynccontextmanager
async def scratch(api: Api, tell: Tell, *, keep: bool) -> AsyncIterator[Scratch]:
    """A place for documents, cleared at the end: also after an error, and after Ctrl-C."""
    place = Scratch(api, tell)
    try:
        yield place
    except BaseException:
        if not keep:
            with contextlib.suppress(CommandFailed):  # what went wrong first is what is told
                await place.clear()
        raise
    if not keep:
        await place.clear()


class Asker:
    """Asks questions of one collection. documents: file id -> document id. there: ids of those in the collection."""

    def __init__(
        self, api: Api, store: str, model: str, documents: Mapping[str, str], there: Iterable[str]
    ) -> None:
        self._api = api
        self._store = store
        self._model = model
        self._documents = documents
        self._there = frozenset(there)

    async def ask_all(
        self, questions: Sequence[Question], phase: str, *, concurrency: int, tell: Callable[[int, int], None]
    ) -> tuple[list[Row], float]:
        """A row for each question, in order, and the seconds that they took together."""
        rows: dict[int, Row] = {}

        async def ask(numbered: tuple[int, Question]) -> None:
            number, question = numbered
            rows[number] = await self._ask(question, phase)
            tell(len(rows), len(questions))

        for question in questions[:NUM_WARM]:
            await self._ask(question, phase)
        started = time.perf_counter()
        await each(enumerate(questions), ask, concurrency)
        return [rows[number] for number in range(len(questions))], time.perf_counter() - started

    async def wake(self, question: Question, wake_s: float, tell: Callable[[int, int], None]) -> None:
        """Ask until nobody else answers in the model's place. Raises: CommandFailed after wake_s."""
        began = time.monotonic()
        while (row := await self._ask(question, ALL)).error or row.tier != self._model:
            waited_s = time.monotonic() - began
            if waited_s >= wake_s:
                instead = f"the last answer is of {row.tier}" if not row.error else row.error.rstrip(".")
                raise CommandFailed(f"{self._model} did not answer within {wake_s:g} s: {instead}.")
            tell(int(waited_s), int(wake_s))
            await asyncio.sleep(min(WAKE_EVERY_S, wake_s - waited_s))

    async def _ask(self, question: Question, phase: str) -> Row:
        is_answerable = question.is_answerable and not self._there.isdisjoint(question.documents)
        answer, timed, error = Answer(), _Timed(), ""
        for attempt in range(NUM_TRIES):
            answer, timed, error = Answer(), _Timed(), ""
            try:
                await self._stream(question.text, answer, timed)
                break
            except ApiError as refusal:
                if refusal.status in {401, 403, 404}:  # no other question would fare better
                    raise
                error = str(refusal)
                if refusal.status not in {429, 503} or attempt == NUM_TRIES - 1:
                    break
                pause_s = 0.5 * 2**attempt if refusal.retry_after_s is None else refusal.retry_after_s
                await asyncio.sleep(min(pause_s, MAX_PAUSE_S))
            except CommandFailed as failure:
                if failure.exit_code == ExitCode.NOT_RUNNING:
                    raise
                error = str(failure)
                break
        return self._row(question, phase, answer, timed, error=error, is_answerable=is_answerable)

    async def _stream(self, text: str, answer: Answer, timed: _Timed) -> None:
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "tidegate": {
                "collections": [self._store],
                "cache": "off",
            },  # what the service can do, not what it has kept
        }
        async with self._api.stream("/v1/chat/completions", body) as events:
            async for event in events:
                if answer.take(event.data):
                    timed.saw_text()
                if answer.is_done:
                    timed.saw_end()
                    return
        raise CommandFailed("The connection ended before the answer did.")

    def _row(
        self,
        question: Question,
        phase: str,
        answer: Answer,
        timed: _Timed,
        *,
        error: str,
        is_answerable: bool,
    ) -> Row:
        """What came of a question. Of an answer that broke off only the error counts."""
        receipt = (not error and answer.receipt) or {}
        text = "" if error else answer.text
        refused = receipt.get("finish_reason") == "no_answer"
        first = first_sentence(text, _first_quote(answer))
        return Row(
            phase=phase,
            question=question.text,
            documents=list(question.documents),
            answers=list(question.answers),
            is_answerable=is_answerable,
            refused=refused,
            answer=text,
            first=first,
            in_first=not refused and holds(first, question.answers),
            in_answer=not refused and holds(text, question.answers),
            passages=[self._found(passage, question) for passage in receipt.get("passages") or []],
            cited=self._cited(receipt, answer, question),
            latency_ms=-1.0 if error else timed.latency_ms,
            ttft_ms=-1.0 if error else timed.ttft_ms,
            tier=str(receipt.get("tier", "")),
            cache=str(receipt.get("cache", "")),
            receipt=str(receipt.get("id", "")),
            error=error,
        )

    def _cited(self, receipt: Mapping[str, Any], answer: Answer, question: Question) -> list[Found]:
        passages = {passage["n"]: passage for passage in receipt.get("passages") or []}
        numbers = [mark.get("passage") for mark in answer.citations]
        return [self._found(passages[number], question) for number in numbers if number in passages]

    def _found(self, passage: Mapping[str, Any], question: Question) -> Found:
        document = self._documents.get(str(passage.get("file_id", "")), "")
        return Found(
            document=document,
            is_right=document in question.documents,
            holds=holds(str(passage.get("text", "")), question.answers),
            score=float(passage.get("score") or 0.0),
        )


class _Timed:
    """Milliseconds since it was made; -1 = not yet."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.ttft_ms = self.latency_ms = -1.0

    def _since(self) -> float:
        return round((time.perf_counter() - self._started) * 1000, 2)

    def saw_text(self) -> None:
        if self.ttft_ms < 0:
            self.ttft_ms = self._since()

    def saw_end(self) -> None:
        self.latency_ms = self._since()


def _first_quote(answer: Answer) -> str:
    return str(answer.citations[0].get("quote", "")) if answer.citations else ""
