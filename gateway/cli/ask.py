"""`tidegate ask`: one question, the answer as it streams in, then its sources."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from gateway.cli.terminal import (
    CollectionsOption,
    CommandFailed,
    ExitCode,
    JsonOption,
    KeyOption,
    UrlOption,
    VarOption,
    console,
    print_json,
    printable,
    settings_of,
)

if TYPE_CHECKING:
    from gateway.cli.client import Target

_EPILOG = """\b
Examples:
  tidegate ask "How long is a stream kept alive?"
  tidegate ask -c handbook --model deep "Who may approve a refund, and up to which sum?"
  cat question.txt | tidegate ask --json -
  tidegate ask --grpc "What does it cost?"
  tidegate ask --conversation new "What is a tide gate?"
  tidegate ask --conversation conv_… "And who designed it?"

\b
Exit codes: 0 answered (also when the documents do not hold the answer), 1 failed, 2 wrong usage,
3 no service answers, 130 stopped by Ctrl-C."""

MAX_QUESTION_BYTES = 4 * 2**20
NEW_CONVERSATION = "new"


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(ask)


def ask(
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="The question; - reads it from standard input.")
    ],
    collection: CollectionsOption = None,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME", help="auto, fast or deep; `tidegate models` lists all."
        ),
    ] = "auto",
    conversation: Annotated[
        str,
        typer.Option(
            "--conversation",
            metavar="ID",
            help="Go on with a conversation that the service keeps; `new` begins one and tells its id.",
        ),
    ] = "",
    sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="Print the quoted sources after the answer.")
    ] = True,
    as_json: JsonOption = False,
    over_grpc: Annotated[
        bool, typer.Option("--grpc", help="Ask over gRPC instead of HTTP; the same port, the same answer.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """Ask your documents. The answer quotes them and names its sources."""
    from gateway.cli.client import resolve_target

    text = _question(question)
    target = resolve_target(settings_of(var), url, key)
    answer = Answer()
    ask_over = _over_grpc if over_grpc else _over_http
    asked = Asked(text, model, collection or [], conversation)
    asyncio.run(_stream(ask_over, target, asked, answer, is_shown=not as_json))
    if as_json:
        print_json(answer.as_dict())
        return
    print()
    if sources:
        _print_sources(answer)
    given_up = (answer.receipt or {}).get("degraded")
    if isinstance(given_up, list) and given_up:
        print(f"Shortened under load: {printable(', '.join(map(str, given_up)))}.", file=sys.stderr)


def _question(argument: str) -> str:
    text = argument
    if argument == "-":
        text = sys.stdin.buffer.read(MAX_QUESTION_BYTES).decode("utf-8", "replace")
    text = text.encode("utf-8", "replace").decode()  # an argument that is not UTF-8 holds lone surrogates
    if not text.strip():
        raise CommandFailed("The question is empty.", ExitCode.USAGE)
    return text.strip()


class Asked(NamedTuple):
    """collections: names or ids until they are looked up. conversation: an id, `new`, or empty."""

    question: str
    model: str
    collections: list[str]
    conversation: str


class Answer:
    """An answer as its events build it up."""

    def __init__(self) -> None:
        self.text = ""
        self.citations: list[dict[str, Any]] = []
        self.usage: dict[str, Any] | None = None
        self.receipt: dict[str, Any] | None = None
        self.waiting = ""  # what the request waits for, in words; empty once text has come
        self.is_done = False

    def take(self, data: str) -> str:
        """One event's data; the new text in it.

        Raises: CommandFailed for an error event and for data that is not one.
        """
        if data.strip() == "[DONE]":
            self.is_done = True
            return ""
        try:
            return self.take_chunk(json.loads(data))
        except (ValueError, TypeError, AttributeError, LookupError):
            raise CommandFailed(
                f"The service sent an event that cannot be read: {printable(data[:80])!r}."
            ) from None

    def take_chunk(self, chunk: dict[str, Any]) -> str:
        """One chunk object; the new text in it. Raises: CommandFailed for an error."""
        if chunk.get("error"):
            raise CommandFailed(printable(str(chunk["error"]["message"])))
        extension = chunk.get("tidegate") or {}
        self.receipt = extension.get("receipt") or self.receipt
        self.usage = chunk.get("usage") or self.usage
        text = ""
        for choice in chunk.get("choices") or []:
            delta = choice.get("delta") or {}
            text += delta.get("content") or ""
            marks = delta.get("annotations") or []
            self.citations += [mark["file_citation"] for mark in marks if mark.get("type") == "file_citation"]
        self.text += text
        self.waiting = "" if self.text else _waiting(extension) or self.waiting
        return text

    def sources(self) -> list[dict[str, Any]]:
        """Passages that the answer had before it, with the sentences quoted from each."""
        sources = [
            {name: passage.get(name) for name in ("n", "file_id", "filename", "heading", "score", "cited")}
            | {"quotes": self._quotes(passage.get("n"))}
            for passage in (self.receipt or {}).get("passages") or []
        ]
        told = {source["n"] for source in sources}
        for mark in self.citations:
            number = mark.get("passage")
            if number not in told:
                told.add(number)
                source = {"n": number, "file_id": mark.get("file_id"), "filename": mark.get("filename")}
                blank = {"heading": "", "score": None, "cited": True}
                sources.append(source | blank | {"quotes": self._quotes(number)})
        return sources

    def _quotes(self, number: object) -> list[dict[str, Any]]:
        return [
            {"text": mark.get("quote", ""), "start": mark.get("start"), "end": mark.get("end")}
            for mark in self.citations
            if mark.get("passage") == number
        ]

    def as_dict(self) -> dict[str, Any]:
        return {
            "answer": self.text,
            "sources": self.sources(),
            "usage": self.usage,
            "receipt": self.receipt,
        }


def _waiting(extension: dict[str, Any]) -> str:
    queue = extension.get("queue")
    if isinstance(queue, dict):
        eta = queue.get("eta_s")
        place = f"In the queue at place {queue.get('position', '?')}"
        return place + (f", about {float(eta):.0f} s" if isinstance(eta, int | float) else "")
    stage = extension.get("stage")
    return {"retrieving": "Searching the documents", "generating": "Writing"}.get(str(stage), "")


Pieces = AsyncIterator[str]  # new text; empty while the request waits


async def _over_http(target: Target, asked: Asked, answer: Answer) -> Pieces:
    from gateway.cli.client import Api

    extension: dict[str, Any] = {"events": True}
    if asked.collections:
        extension["collections"] = asked.collections
    if asked.conversation:
        extension["conversation"] = asked.conversation
    body = {
        "model": asked.model,
        "messages": [{"role": "user", "content": asked.question}],
        "stream": True,
        "tidegate": extension,
    }
    async with Api(target) as api, api.stream("/v1/chat/completions", body) as events:
        async for event in events:
            yield answer.take(event.data)
            if answer.is_done:
                return


async def _over_grpc(target: Target, asked: Asked, answer: Answer) -> Pieces:
    from gateway.cli.grpc_client import chat

    chunks = chat(
        target,
        question=asked.question,
        model=asked.model,
        collections=asked.collections,
        conversation=asked.conversation,
    )
    async with contextlib.aclosing(chunks):  # type: ignore[type-var]
        async for chunk in chunks:
            yield answer.take_chunk(chunk)
            answer.is_done = answer.receipt is not None


async def _stream(
    ask_over: Callable[[Target, Asked, Answer], Pieces],
    target: Target,
    asked: Asked,
    answer: Answer,
    *,
    is_shown: bool,
) -> None:
    from gateway.cli.client import Api, collection_ids

    if asked.collections or asked.conversation == NEW_CONVERSATION:
        async with Api(target) as api:
            asked = asked._replace(collections=await collection_ids(api, asked.collections))
            if asked.conversation == NEW_CONVERSATION:
                made = await api.post("/v1/conversations", {})
                asked = asked._replace(conversation=str(made["id"]))
                print(f"Conversation: {asked.conversation}", file=sys.stderr)
    with console(stderr=True).status("Waiting for the service") as status:
        pieces = ask_over(target, asked, answer)
        async with contextlib.aclosing(pieces):  # type: ignore[type-var]
            await _follow(pieces, answer, is_shown=is_shown, tell=status.update, clear=status.stop)
    if not answer.is_done:
        raise CommandFailed(f"The connection to {target.url} ended before the answer did.")


async def _follow(
    pieces: Pieces,
    answer: Answer,
    *,
    is_shown: bool,
    tell: Callable[[str], None],
    clear: Callable[[], None],
) -> None:
    try:
        async for text in pieces:
            if text:
                clear()
                if is_shown:
                    print(printable(text), end="", flush=True)
            elif answer.waiting:
                tell(answer.waiting)
    except CommandFailed:
        if is_shown and answer.text:
            print()  # the error starts on a line of its own
        raise


def _print_sources(answer: Answer) -> None:
    cited = [source for source in answer.sources() if source["cited"] or source["quotes"]]
    if not cited:
        return
    from rich.text import Text

    out = console()
    out.print(Text("\nSources", style="bold"))
    for source in cited:
        line = Text(f"[{source['n']}] ", style="bold")
        line.append(printable(place(source)), style="cyan")
        if source["score"] is not None:
            line.append(f"  {source['score']:.2f}", style="dim")
        out.print(line, soft_wrap=True)
        for quote in source["quotes"]:
            out.print(Text(f"    “{printable(' '.join(quote['text'].split()))}”"), soft_wrap=True)


def place(source: dict[str, Any]) -> str:
    """filename › heading, for a passage of a receipt or a search."""
    return " › ".join(part for part in (source.get("filename"), source.get("heading")) if part)
