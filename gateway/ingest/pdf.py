"""The text of a PDF, with the place of its pages. Owns the calls to PDFium; how lines become text is `page_layout`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

import pypdfium2
import pypdfium2.raw as pdfium

from gateway.errors import Unprocessable
from gateway.ingest.page_layout import Bookmark, Laid, Line, Page, lay_out

_PASSWORD_NEEDED = pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY
_MAX_BOOKMARKS = 5000
_MAX_BOOKMARK_DEPTH = 6
_MIN_CHARS_PER_PAGE = 2  # on average, of pages with a text layer; scans may have a stamp on some page
_BOLD_WEIGHT = 600
_BREAKS = {0x2, 0xFFFE}  # what PDFium gives for a hyphen at the end of a line, and for its newline
_BOLD = (b"bold", b"black", b"heavy", b"semibd")
_MONO = (b"courier", b"mono", b"consol", b"cmtt", b"typewriter", b"menlo")
_MIN_CELL_GAP = 4.0  # points; asked first, for it is cheap
_CELL_GAP = 1.2  # widths of an em between two cells
_FONT_NAME_BYTES = 128


def pdf_to_markdown(data: bytes, *, max_pages: int, max_chars: int) -> Laid:
    """Paragraphs with their headings, and where each page begins.

    Raises: Unprocessable: `encrypted_file`, `damaged_file`, `file_too_complex` (more than max_pages pages or max_chars
    characters), `no_text_layer` (scanned).
    """
    document = _opened(data)
    try:
        if len(document) > max_pages:
            raise Unprocessable(
                f"The PDF has {len(document)} pages; at most {max_pages} are read. Split it.",
                code="file_too_complex",
            )
        pages = list(_pages(document, max_chars))
        bookmarks = list(_bookmarks(document))
    finally:
        document.close()
    num_chars = sum(len(line.text) for page in pages for line in page.lines)
    if num_chars < _MIN_CHARS_PER_PAGE * len(pages):
        raise Unprocessable(
            "The PDF has no text layer: its pages are pictures. Upload it after text recognition (OCR).",
            code="no_text_layer",
        )
    return lay_out(pages, bookmarks)


def _opened(data: bytes) -> pypdfium2.PdfDocument:
    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if error.err_code in _PASSWORD_NEEDED:
            raise Unprocessable(
                "The PDF is encrypted and needs a password; upload it without one.", code="encrypted_file"
            ) from None
        raise Unprocessable(
            "The PDF is damaged and cannot be opened.", code="damaged_file", detail=str(error)
        ) from None


def _pages(document: pypdfium2.PdfDocument, max_chars: int) -> Iterator[Page]:
    """A page that cannot be read counts as an empty one, unless none can."""
    num_chars, num_broken = 0, 0
    for index in range(len(document)):
        try:
            lines = _lines_of(document, index)
        except pypdfium2.PdfiumError:
            num_broken += 1
            lines = []
        num_chars += sum(len(line.text) for line in lines)
        if num_chars > max_chars:
            raise Unprocessable(
                f"The PDF holds more than {max_chars} characters of text. Split it.", code="file_too_complex"
            )
        yield Page(lines)
    if num_broken == len(document):
        raise Unprocessable("The PDF is damaged: none of its pages can be read.", code="damaged_file")


def _lines_of(document: pypdfium2.PdfDocument, index: int) -> list[Line]:
    page = document[index]
    try:
        text_page = page.get_textpage()
        try:
            return list(_lines(text_page.raw))
        finally:
            text_page.close()
    finally:
        page.close()


@dataclass(slots=True)
class _Run:
    """Characters of one line: their texts, and the indexes of the first and last one that is visible."""

    words: list[str]
    first: int = -1
    last: int = -1


def _lines(text_page: object) -> Iterator[Line]:
    """The lines of a page in the order of its content, which is nearly always that of reading."""
    run = _Run([])
    for index in range(pdfium.FPDFText_CountChars(text_page)):
        code = pdfium.FPDFText_GetUnicode(text_page, index)
        if code in {0xA, 0xD} or code in _BREAKS:
            run.words += "\xad" if code in _BREAKS else ""
            yield from _line(text_page, run)
            run = _Run([])
        elif code >= 0x20 and not 0xD800 <= code < 0xE000 and code != 0x7F:
            if code != 0x20:
                if run.words and run.words[-1] == " " and _is_apart(text_page, run.last, index):
                    run.words.append("| ")
                run.first = index if run.first < 0 else run.first
                run.last = index
            run.words.append(chr(code))
    yield from _line(text_page, run)


def _is_apart(text_page: object, last: int, index: int) -> bool:
    """Two words with more room between them than justified text has: cells of a table."""
    if last < 0:
        return False
    _, right, bottom, top = _box(text_page, last)
    room = _box(text_page, index)[0] - right
    return room > _MIN_CELL_GAP and room > _CELL_GAP * _size(text_page, index, top - bottom)


def _line(text_page: object, run: _Run) -> Iterator[Line]:
    text = "".join(run.words).strip()
    if not text or run.first < 0:
        return
    left, right, bottom, top = _box(text_page, run.first)
    _, end, last_bottom, _ = _box(text_page, run.last)
    size = _size(text_page, run.first, top - bottom)
    fonts = [_font(text_page, run.first), _font(text_page, run.last)]
    yield Line(
        text,
        size,
        all(is_bold for is_bold, _ in fonts),
        all(is_mono for _, is_mono in fonts),
        left,
        max(right, end),
        min(bottom, last_bottom),
    )


def _box(text_page: object, index: int) -> tuple[float, float, float, float]:
    """left, right, bottom, top of a character, in points from the lower left corner of the page."""
    edges = [ctypes.c_double() for _ in range(4)]
    pdfium.FPDFText_GetCharBox(text_page, index, *edges)
    left, right, bottom, top = (edge.value for edge in edges)
    return left, right, bottom, top


def _size(text_page: object, index: int, height: float) -> float:
    """Points, to a half. Some producers set size 1 and scale the text: then the height of a letter tells."""
    size = float(pdfium.FPDFText_GetFontSize(text_page, index))
    return round(2 * (size if size > 2 else height * 1.4)) / 2


def _font(text_page: object, index: int) -> tuple[bool, bool]:
    """Whether a character is bold, and whether all letters of its font are equally wide."""
    buffer, flags = ctypes.create_string_buffer(_FONT_NAME_BYTES), ctypes.c_int()
    pdfium.FPDFText_GetFontInfo(text_page, index, buffer, _FONT_NAME_BYTES, flags)
    name = buffer.value.lower()
    is_bold = int(pdfium.FPDFText_GetFontWeight(text_page, index)) >= _BOLD_WEIGHT
    return is_bold or any(word in name for word in _BOLD), any(word in name for word in _MONO)


def _bookmarks(document: pypdfium2.PdfDocument) -> Iterator[Bookmark]:
    for number, item in enumerate(document.get_toc(max_depth=_MAX_BOOKMARK_DEPTH)):
        if number == _MAX_BOOKMARKS:
            return
        target = item.get_dest()
        page = target.get_index() if target is not None else None
        title = " ".join(item.get_title().split())
        if page is not None and page >= 0 and title:
            yield Bookmark(title, item.level + 1, page)
