"""A batch with everything that people and attackers upload: each bad file fails with its own sentence, the good ones
among them are searchable, and of a bad one nothing is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.storage import catalog
from tests.fakes.documents import (
    JPEG,
    body,
    entity_bomb,
    escaping_zip,
    formatting_bomb,
    heading,
    many_pages_pdf,
    page_break,
    pdf,
    scanned_pdf,
    simple_word,
    zip_bomb,
    zipped,
)
from tests.integration.test_ingest_worker import Bench

GOOD = {
    "guide.txt": b"The gate opens at dawn.",
    "guide.md": b"# Guide\n\nThe gate opens at dawn.",
    "guide.html": b"<h1>Guide</h1><p>The gate opens at dawn.</p>",
    "guide.pdf": pdf(heading("Guide"), page_break(), body("The gate opens at dawn.")),
    "guide.docx": simple_word(),
    "parts.csv": b"name,note\nnut,The gate opens at dawn.\n",
    "parts.jsonl": b'{"note": "The gate opens at dawn."}\n{"note": "It closes."}\n',
    "gate.py": b'def gate():\n    """The gate opens at dawn."""\n',
    "guide.cp1251.txt": "Шлюз открывается на рассвете. Ключ лежит у хранителя.".encode("cp1251"),
    "../../etc/passwd": b"A name is only a name.",
    "words.pdf": b"The gate opens at dawn.",
}

BAD = {
    "nothing.txt": (b"", "empty_file", "The file is empty."),
    "space.pdf": (b" \n ", "empty_file", "holds no text"),
    "zeros.txt": (b"\0" * 5000, "unsupported_file", "binary data"),
    "zero.txt": (b"some words\0and more", "unsupported_file", "zero bytes"),
    "holiday.pdf": (JPEG, "unsupported_file", "a JPEG image, whatever the .pdf of its name says"),
    "archive.docx": (zipped({"xl/workbook.xml": b"x"}), "unsupported_file", "Excel"),
    "secret.pdf": (pdf(body("Words."), password="secret"), "encrypted_file", "needs a password"),
    "scan.pdf": (scanned_pdf(), "no_text_layer", "no text layer"),
    "long.pdf": (many_pages_pdf(10_000), "file_too_complex", "10000 pages; at most 2000"),
    "cut.pdf": (pdf(body("Words."))[:300], "damaged_file", "damaged"),
    "cut.docx": (simple_word()[:3000], "damaged_file", "damaged"),
    "bomb.docx": (zip_bomb(), "file_too_complex", "unfolds to"),
    "laughs.docx": (entity_bomb(), "file_too_complex", "document type"),
    "outside.docx": (escaping_zip(), "file_too_complex", "lie outside"),
    "deep.json": (b"[" * 50_000 + b"]" * 50_000, "file_too_complex", "nested deeper"),
    "formats.html": (formatting_bomb(4000), "file_too_complex", "complex"),
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.database.close()


async def test_bad_files_fail_one_by_one_and_the_others_are_indexed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.ingest.sandbox.CPU_S", 2.0)
    names = sorted(GOOD.keys() | BAD.keys())
    files = {name: bench.upload(name, GOOD.get(name) or BAD[name][0]) for name in names}
    async with bench.working():
        rows = dict(zip(names, await bench.until_done(*files.values()), strict=True))
    assert {name: rows[name].status for name in names} == {
        name: "completed" if name in GOOD else "failed" for name in names
    }
    for name, (_, code, words) in BAD.items():
        message = rows[name].error_message or ""
        assert (name, rows[name].error_code) == (name, code)
        assert words in message
        assert message.endswith(".")
        assert len(message) < 300
    _check_what_is_visible(bench, files, rows)


def _check_what_is_visible(
    bench: Bench, files: dict[str, str], rows: dict[str, catalog.AttachmentRow]
) -> None:
    """All of the good files, exactly; of the bad ones neither chunks nor text."""
    chunks = bench.chunks()
    assert {chunk.file_id for chunk in chunks} == {files[name] for name in GOOD}
    for name in GOOD:
        text = bench.blobs.read_text("default", files[name])
        own = [chunk for chunk in chunks if chunk.file_id == files[name]]
        assert len(own) == rows[name].num_chunks
        assert all(text[chunk.start_char : chunk.end_char] == chunk.text for chunk in own)
    for name in BAD:
        assert not bench.blobs.text_path("default", files[name]).exists()
    (page,) = [chunk for chunk in chunks if chunk.file_id == files["guide.pdf"]]
    assert (page.page, page.heading) == (1, "Guide")
