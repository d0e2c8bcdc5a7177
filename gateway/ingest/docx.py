"""A Word document as Markdown. Owns what is checked before its parts are unfolded; mammoth reads them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from xml.parsers import expat

import mammoth

from gateway.errors import Unprocessable
from gateway.ingest.html_text import html_to_markdown

_MAX_MEMBERS = 5000
_MAX_XML_BYTES = 64 * 2**20  # of all parts that are parsed; a novel has 5 MB
_MAX_UNFOLDED_BYTES = 512 * 2**20  # pictures and all
_MAX_RATIO = 200  # of XML to its packed size; real documents have 5 to 50
_SMALL_XML_BYTES = 4 * 2**20  # up to here any ratio will do
_ENCRYPTED_FLAG = 0x1
_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Code'] => pre:separator('\\n')
p[style-name='Source Code'] => pre:separator('\\n')
p[style-name='HTML Preformatted'] => pre:separator('\\n')
p[style-name='macro'] => pre:separator('\\n')
"""
_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, expat.ExpatError, EOFError, OSError, NotImplementedError),
    *(LookupError, ValueError, TypeError, AttributeError),  # what mammoth runs into where parts are missing
)


class _Seen(Exception):
    """The root element has begun: there can be no document type any more."""


def docx_to_markdown(data: bytes) -> str:
    """Headings, lists, tables, notes; no pictures, no running heads.

    Raises: Unprocessable: `encrypted_file`, `damaged_file`, `file_too_complex` (a bomb, or made to look like one).
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_members(archive.infolist())
            for member in archive.infolist():
                if _is_xml(member):
                    with archive.open(member) as part:
                        _check_document_type(part.read, member.filename)
        found = mammoth.convert_to_html(
            io.BytesIO(data), style_map=_STYLES, convert_image=mammoth.images.img_element(lambda _image: {})
        )
    except RecursionError:
        raise _too_complex("it is nested too deep") from None
    except _DAMAGE as error:
        raise Unprocessable(
            "The Word document is damaged and cannot be opened.", code="damaged_file", detail=repr(error)
        ) from None
    return html_to_markdown(found.value)


def _check_members(members: list[zipfile.ZipInfo]) -> None:
    """By the archive's own list, before anything is unfolded: reading stops at the sizes that it states."""
    if len(members) > _MAX_MEMBERS:
        raise _too_complex(f"it has {len(members)} parts")
    for member in members:
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise _too_complex("a part of it is named to lie outside of it")
        if member.flag_bits & _ENCRYPTED_FLAG:
            raise Unprocessable(
                "The Word document is encrypted; upload it without a password.", code="encrypted_file"
            )
    xml = [member for member in members if _is_xml(member)]
    unfolded, packed = sum(part.file_size for part in xml), sum(part.compress_size for part in xml)
    if sum(member.file_size for member in members) > _MAX_UNFOLDED_BYTES or unfolded > _MAX_XML_BYTES:
        raise _too_complex(f"it unfolds to {sum(member.file_size for member in members) >> 20} MiB")
    if unfolded > _SMALL_XML_BYTES and unfolded > _MAX_RATIO * packed:
        raise _too_complex(f"it unfolds to {unfolded // max(packed, 1)} times its size")


def _is_xml(member: zipfile.ZipInfo) -> bool:
    return member.filename.lower().endswith((".xml", ".rels"))


def _check_document_type(read: Callable[[int], bytes], name: str) -> None:
    """Office never writes a document type; entities, the stuff of XML bombs, need one."""
    parser = expat.ParserCreate()

    def refuse(*_declared: object) -> None:
        raise _too_complex(f"its part {name[:60]} declares a document type")

    def stop(*_element: object) -> None:
        raise _Seen

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = stop
    try:
        while piece := read(64 * 1024):
            parser.Parse(piece)
    except _Seen:
        pass


def _too_complex(why: str) -> Unprocessable:
    return Unprocessable(f"The Word document is too complex to be read: {why}.", code="file_too_complex")
