"""Files of every format as their usual producers make them, and files that are made to do harm."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable, Sequence

import docx
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import PageBreak, Paragraph, Preformatted, SimpleDocTemplate, Table

JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + b"\x11" * 200

_STYLES = getSampleStyleSheet()


def title(words: str) -> Paragraph:
    return Paragraph(words, _STYLES["Title"])


def heading(words: str, level: int = 1) -> Paragraph:
    return Paragraph(words, _STYLES[f"Heading{level}"])


def body(words: str) -> Paragraph:
    return Paragraph(words, _STYLES["BodyText"])


def code(words: str) -> Preformatted:
    return Preformatted(words, _STYLES["Code"])


def table(rows: Sequence[Sequence[str]]) -> Table:
    return Table(rows)


def page_break() -> PageBreak:
    return PageBreak()


def pdf(*parts: object, foot: str = "", password: str | None = None) -> bytes:
    """A laid out PDF. foot: below each page, `{page}` is its number. password: what opening it needs; "" = nothing."""
    out = io.BytesIO()
    encryption = None if password is None else StandardEncryption(password, ownerPassword="owner")

    def draw_foot(canvas: Canvas, document: SimpleDocTemplate) -> None:
        canvas.setFont("Helvetica", 10)
        canvas.drawString(100, 30, foot.format(page=document.page))

    document = SimpleDocTemplate(out, pagesize=A4, encrypt=encryption)
    document.build(list(parts), onFirstPage=draw_foot, onLaterPages=draw_foot)
    return out.getvalue()


def drawn_pdf(num_pages: int, draw: Callable[[Canvas, int], None]) -> bytes:
    """A PDF whose pages `draw` draws by hand; its second argument is the page, from 0."""
    out = io.BytesIO()
    canvas = Canvas(out, pagesize=A4)
    for page in range(num_pages):
        draw(canvas, page)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def scanned_pdf(num_pages: int = 2) -> bytes:
    return drawn_pdf(num_pages, lambda canvas, _page: canvas.rect(50, 50, 300, 300, fill=1))


def word(build: Callable[[docx.document.Document], None]) -> bytes:
    """A docx that `build` fills."""
    document = docx.Document()
    build(document)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def with_part(document: bytes, name: str, data: bytes) -> bytes:
    """A docx with one part put in or replaced."""
    with zipfile.ZipFile(io.BytesIO(document)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    return zipped(members | {name: data})


def simple_word(words: str = "The gate opens at dawn.") -> bytes:
    return word(lambda document: document.add_paragraph(words))


def formatting_bomb(num_tags: int) -> bytes:
    """HTML in which the standard has each paragraph repeat all elements that were left open before it."""
    tags = "".join(f"<b id=i{number}>" for number in range(num_tags))
    return f"<html><p>{tags}</p>{'<p>x</p>' * num_tags}".encode()


def entity_bomb() -> bytes:
    """A docx whose text is a billion laughs."""
    names = "abcdefghij"
    entities = "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in itertools.pairwise(names)
    )
    part = f'<?xml version="1.0"?><!DOCTYPE w [<!ENTITY a "laugh">{entities}]><w:document>&j;</w:document>'
    return with_part(simple_word(), "word/document.xml", part.encode())


def zip_bomb() -> bytes:
    """A docx of some hundred kilobytes whose text part unfolds to 60 MiB."""
    return with_part(simple_word(), "word/document.xml", b"<w:document>" + b" " * (60 * 2**20))


def escaping_zip() -> bytes:
    return with_part(simple_word(), "../../word/evil.xml", b"<evil/>")


def many_pages_pdf(num_pages: int) -> bytes:
    """Written by hand: all pages share one content, so that ten thousand are a megabyte and made at once."""
    kids = " ".join(f"{number} 0 R" for number in range(5, 5 + num_pages))
    stream = b"BT /F 12 Tf 100 700 Td (The same words on every page.) Tj ET"
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 3 0 R/Resources<</Font<</F 4 0 R>>>>>>"
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {num_pages}/Kids[{kids}]>>".encode(),
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        *[page] * num_pages,
    ]
    out = bytearray(b"%PDF-1.4\n")
    places = []
    for number, content in enumerate(objects, start=1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, content)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % place for place in places)
    out += b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (len(objects) + 1, start)
    return bytes(out)
