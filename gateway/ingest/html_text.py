"""HTML to readable text that keeps headings, lists, tables and code as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode, SelectolaxError

from gateway.errors import Unprocessable

_SKIPPED = {
    "script",
    "style",
    "template",
    "noscript",
    "svg",
    "head",
    "iframe",
    "object",
    "select",
    "math",
    "canvas",
}
_NO_ELEMENTS = {"-comment", "!doctype", "-undef"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = {"p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "blockquote"} | {
    *("ul", "ol", "dl", "table", "form", "figure", "hr", "details", "fieldset", "address", "body")
}
_LINES = {"br", "tr", "dt", "dd", "figcaption", "summary", "option", "caption"}
_CELLS = {"td", "th"}
_MAX_CELL_CHARS = 500
_SPACE = re.compile(r"[ \t\n\r\f\v]+")
_BLANK = re.compile(r"\n{3,}")  # its lines are trimmed


def html_to_markdown(html: str) -> str:
    """The text a reader would see. Broken markup is read as well as it goes.

    Markup made for it takes time and memory that grow with the square of its length, as in every parser that follows
    the standard: only for where both are bounded.
    Raises: Unprocessable `file_too_complex` when the memory does not suffice.
    """
    try:
        tree = LexborHTMLParser(html)
    except SelectolaxError as error:
        raise Unprocessable(
            "The HTML needs more memory than any real page; it is too complex to be read.",
            code="file_too_complex",
            detail=str(error),
        ) from None
    writer = _Writer({node.mem_id for node in tree.css("[hidden]")})
    if tree.root is not None:
        _walk(tree.root, writer)
    title = tree.css_first("head > title")
    return writer.result(_SPACE.sub(" ", title.text()).strip() if title is not None else "")


def _walk(root: LexborNode, writer: _Writer) -> None:
    """Every node in document order, without recursion: nesting is the author's."""
    ancestors: list[LexborNode] = []
    node: LexborNode | None = root
    while node is not None:
        child = node.child if writer.enter(node) else None
        if child is not None:
            ancestors.append(node)
            node = child
            continue
        writer.leave(node)
        following = node.next if ancestors else None
        while following is None and ancestors:
            node = ancestors.pop()
            writer.leave(node)
            following = node.next if ancestors else None
        node = following


class _Writer:
    """hidden: ids of the nodes that are not shown."""

    def __init__(self, hidden: set[int]) -> None:
        self._hidden = hidden
        self._out: list[str] = []  # finished pieces; code blocks are never touched again
        self._flow: list[str] = []  # running text in which space still collapses
        self._pre_depth = 0
        self._cells: list[tuple[int, int]] = []  # where the open ones begin in the flow, and of which flush

    def enter(self, node: LexborNode) -> bool:
        """Whether its children are to be read."""
        tag = node.tag or ""
        if tag == "-text":
            self._add(node.text_content or "")
            return False
        if tag in _SKIPPED or tag in _NO_ELEMENTS or (self._hidden and node.mem_id in self._hidden):
            return False
        if tag == "pre":
            self._pre_depth += 1
            if self._pre_depth == 1:
                self._flush()
                self._out.append("```\n")
        elif self._pre_depth:
            if tag == "br":
                self._out.append("\n")
        else:
            self._open(tag)
        return True

    def _open(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._flow.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag in _PARAGRAPHS:
            self._flow.append("\n\n")
        elif tag == "li":
            self._flow.append("\n- ")
        elif tag in _CELLS:
            self._flow.append(" | ")
            self._cells.append((len(self._flow), len(self._out)))
        elif tag in _LINES:
            self._flow.append("\n")

    def leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "pre" and self._pre_depth:
            self._pre_depth -= 1
            if self._pre_depth == 0:
                self._out.append("\n```\n\n")
        elif self._pre_depth:
            return
        elif tag in _CELLS:
            self._close_cell()
        elif tag in _HEADINGS or tag in _PARAGRAPHS:
            self._flow.append("\n\n")

    def _close_cell(self) -> None:
        """Paragraphs in a cell of a table stand side by side; a cell that lays out a page is no such cell."""
        start, num_pieces = self._cells.pop()
        words = "".join(self._flow[start:]) if num_pieces == len(self._out) else "\n#"
        if len(words) <= _MAX_CELL_CHARS and "\n#" not in words:
            self._flow[start:] = [" ".join(words.split())]

    def _add(self, text: str) -> None:
        if self._pre_depth:
            self._out.append(text.replace("```", "'''"))  # it must not close our fence
        else:
            self._flow.append(_SPACE.sub(" ", text))

    def _flush(self) -> None:
        """Settle the running text: lines trimmed, at most one empty line in a row, headings on one line."""
        self._out.append(_BLANK.sub("\n\n", "\n".join(self._lines())).strip() + "\n\n")
        self._flow.clear()

    def _lines(self) -> Iterator[str]:
        for line in "".join(self._flow).split("\n"):
            yield _SPACE.sub(" ", line).strip().removeprefix("| ")

    def result(self, title: str) -> str:
        """title: of the page, put on top unless its text begins with a heading of the first level."""
        self._flush()
        body = "".join(self._out).strip()
        if title and not body.startswith("# "):
            body = f"# {title}\n\n{body}"
        return body + "\n" if body else ""
