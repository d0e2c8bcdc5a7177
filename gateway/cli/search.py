"""`tidegate search`: the passages nearest to a text, without an answer."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gateway.cli.ask import place
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
  tidegate search "keep-alive of a stream"
  tidegate search -k 3 -c handbook --json refunds | jq '.[].filename'
  tidegate search --filter '{"type": "eq", "key": "lang", "value": "en"}' refunds"""

PREVIEW_CHARS = 320
MAX_AT_ONCE = 64  # collections in one call


def register(app: typer.Typer) -> None:
    app.command(epilog=_EPILOG)(search)


def search(
    *,
    query: Annotated[str, typer.Argument(metavar="TEXT", help="What to look for.")],
    num: Annotated[int, typer.Option("-k", metavar="N", help="Passages to show.", min=1, max=50)] = 5,
    collection: CollectionsOption = None,
    given: Annotated[
        str | None,
        typer.Option("--filter", metavar="JSON", help="Only files whose attributes match; OpenAI's filters."),
    ] = None,
    as_json: JsonOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    var: VarOption = None,
) -> None:
    """Show the passages that a text finds."""
    from gateway.cli.client import resolve_target

    text = query.encode("utf-8", "replace").decode().strip()
    if not text:
        raise CommandFailed("The text to look for is empty.", ExitCode.USAGE)
    body: dict[str, Any] = {"query": text, "max_num_results": num}
    if given is not None:
        body["filters"] = _filter(given)
    target = resolve_target(settings_of(var), url, key)
    found = asyncio.run(_search(target, body, collection))
    if as_json:
        print_json(found)
    elif found:
        _print(found, text)
    else:
        print("No passage found.")


def _filter(text: str) -> Any:
    """What it means is the service's to check. Raises: CommandFailed (usage) for what is no JSON object."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise CommandFailed(f"--filter is not JSON: {error}.", ExitCode.USAGE) from None
    if not isinstance(found, dict):
        raise CommandFailed("--filter must be a JSON object.", ExitCode.USAGE)
    return found


async def _search(target: Target, body: dict[str, Any], collection: list[str] | None) -> list[dict[str, Any]]:
    from gateway.cli.client import Api, collection_ids

    async with Api(target) as api:
        identifiers = await collection_ids(api, collection)
        if not identifiers:
            raise CommandFailed("There are no documents yet: add some with `tidegate ingest PATH`.")
        pages = []
        for start in range(0, len(identifiers), MAX_AT_ONCE):
            first, *others = identifiers[start : start + MAX_AT_ONCE]
            path = f"/v1/vector_stores/{first}/search"
            pages.append(await api.post(path, body | {"tidegate": {"collections": others}}))
    return merge(pages, int(body["max_num_results"]))


def merge(pages: list[dict[str, Any]], num: int) -> list[dict[str, Any]]:
    """The best `num` passages over all pages, best first, one flat object each."""
    found = []
    for page in pages:
        for item in page.get("data") or []:
            extension = item.get("tidegate") or {}
            found.append(
                {
                    "score": float(item.get("score") or 0.0),
                    "filename": item.get("filename", ""),
                    "heading": extension.get("heading", ""),
                    "text": "\n".join(part.get("text", "") for part in item.get("content") or []),
                    "start": extension.get("start"),
                    "end": extension.get("end"),
                    "page": extension.get("page"),
                    "file_id": item.get("file_id"),
                    "collection_id": extension.get("collection_id"),
                }
            )
    return sorted(found, key=lambda passage: -passage["score"])[:num]


def _print(found: list[dict[str, Any]], query: str) -> None:
    from rich.text import Text

    out = console()
    words = sorted(query_words(query), key=len, reverse=True)
    for number, passage in enumerate(found, 1):
        line = Text(f"{number}. ", style="bold")
        line.append(printable(place(passage)), style="cyan")
        line.append(f"  {passage['score']:.2f}", style="dim")
        out.print(line, soft_wrap=True)
        text = Text(preview(printable(passage["text"]), words))
        for word in words:
            text.highlight_regex(rf"(?i)\b{re.escape(word)}\w*", "bold yellow")
        out.print(text, soft_wrap=not out.is_terminal)
        if number < len(found):
            out.print()


def query_words(query: str) -> set[str]:
    """Words worth highlighting: those of three letters and more."""
    return {word.lower() for word in re.findall(r"\w{3,}", query)}


def preview(text: str, words: list[str]) -> str:
    """At most PREVIEW_CHARS of the text on one line, from a little before the first of the words."""
    text = " ".join(text.split())
    if len(text) <= PREVIEW_CHARS:
        return text
    lowered = text.lower()
    first = min((at for at in (lowered.find(word) for word in words) if at >= 0), default=0)
    start = max(0, min(first - 80, len(text) - PREVIEW_CHARS))
    if start:
        start = text.find(" ", start) + 1 or start
    end = start + PREVIEW_CHARS
    if end < len(text):
        end = text.rfind(" ", start, end) if " " in text[start:end] else end
    return ("… " if start else "") + text[start:end] + (" …" if end < len(text) else "")
