"""HTML to readable text that keeps headings, lists, tables and code as Markdown."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SKIPPED = {"script", "style", "template", "noscript", "svg", "head", "iframe", "object", "select"}
_HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
_PARAGRAPHS = {"p", "div", "section", "article", "main", "header", "footer", "nav", "aside", "blockquote"} | {
    *("ul", "ol", "dl", "table", "form", "figure", "hr", "details", "fieldset", "address", "body")
}
_LINES = {"br", "tr", "dt", "dd", "figcaption", "summary", "option", "caption"}
_SPACE = re.compile(r"[ \t\n\r\f\v]+")
_BLANK = re.compile(r"\n{3,}")  # its lines are trimmed


def html_to_markdown(html: str) -> str:
    """The text a reader would see. Broken markup is read as well as it goes; nothing raises."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.result()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._out: list[str] = []  # finished pieces; code blocks are never touched again
        self._flow: list[str] = []  # running text in which space still collapses
        self._skipping = ""  # the tag whose content is left out
        self._skip_depth = 0
        self._pre_depth = 0
        self._title: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._in_title = True
        if tag == "body" and self._skipping == "head":
            self._skipping = ""  # an unclosed head
        if self._skipping:
            self._skip_depth += tag == self._skipping
        elif tag in _SKIPPED:
            self._skipping, self._skip_depth = tag, 1
        elif tag == "pre":
            self._pre_depth += 1
            if self._pre_depth == 1:
                self._flush()
                self._out.append("```\n")
        elif self._pre_depth:
            if tag == "br":
                self._out.append("\n")
        else:
            self._open(tag)

    def _open(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._flow.append("\n\n" + "#" * int(tag[1]) + " ")
        elif tag in _PARAGRAPHS:
            self._flow.append("\n\n")
        elif tag == "li":
            self._flow.append("\n- ")
        elif tag in {"td", "th"}:
            self._flow.append(" | ")
        elif tag in _LINES:
            self._flow.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        if self._skipping:
            self._skip_depth -= tag == self._skipping
            if self._skip_depth == 0:
                self._skipping = ""
        elif tag == "pre" and self._pre_depth:
            self._pre_depth -= 1
            if self._pre_depth == 0:
                self._out.append("\n```\n\n")
        elif not self._pre_depth and tag in _HEADINGS | _PARAGRAPHS:
            self._flow.append("\n\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data)
        elif self._skipping:
            return
        elif self._pre_depth:
            self._out.append(data.replace("```", "'''"))  # it must not close our fence
        else:
            self._flow.append(_SPACE.sub(" ", data))

    def _flush(self) -> None:
        """Settle the running text: lines trimmed, at most one empty line in a row, headings on one line."""
        lines = "".join(self._flow).split("\n")
        text = "\n".join(_SPACE.sub(" ", line).strip().removeprefix("| ") for line in lines)
        self._flow.clear()
        self._out.append(_BLANK.sub("\n\n", text).strip() + "\n\n")

    def result(self) -> str:
        if self._pre_depth:
            self._out.append("\n```\n")
        self._flush()
        body = "".join(self._out).strip()
        title = _SPACE.sub(" ", "".join(self._title)).strip()
        if title and not body.startswith("# "):
            body = f"# {title}\n\n{body}"
        return body + "\n" if body else ""
