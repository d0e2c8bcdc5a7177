"""From bytes to text, whatever encoding they are in. Pure; a bounded sample decides."""

from __future__ import annotations

import codecs
import re
import unicodedata

from charset_normalizer import from_bytes

from gateway.errors import Unprocessable

_HEAD_BYTES = 4096
_SAMPLE_BYTES = 32 * 1024
# UTF-32's mark begins with UTF-16's, so it is asked first.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Bytes that no text in an 8-bit encoding has: control characters but tab, newlines, form feed and escape.
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\v\f\r\x1b")) + b"\x7f"
_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_NO_TEXT = {"Cc", "Cn", "Co", "Cs"}  # kinds of characters
_MAX_BROKEN_SHARE = 0.05  # of the non-ASCII characters, before it cannot have been UTF-8
_MIN_FOREIGN_BYTES = 8  # fewer tell nothing of a language: a price in euros, a name
# What people have files in. The detector knows many more, and finds them where they are not.
_CANDIDATES = [
    *(
        "cp1252",
        "cp1251",
        "cp1250",
        "iso8859_2",
        "iso8859_5",
        "koi8_r",
        "cp866",
        "cp1253",
        "cp1254",
        "cp1255",
    ),
    *("cp1256", "cp1257", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949"),
]
# Letters that texts in an encoding of Latin script use, the likeliest encoding first. In another one they are signs, or
# letters that do not go together.
_CENTRAL = frozenset("áäąćčçďéęěëíîłľňńóôöőřŕšśťúůüűýžźżâăşţđ")
_LATIN = {
    "cp1252": frozenset("àáâãäåæçèéêëìíîïñòóôõöøœùúüÿßªº¿¡"),
    "cp1254": frozenset("âçğıîöşûüi̇äß"),
    "cp1257": frozenset("āčēģīķļņšūžąęėįųõäöü"),
    "cp1250": _CENTRAL | {"ß"},
    "iso8859_2": _CENTRAL | {"ß"},
}
# Where HTML, XML and scripts say their encoding.
_DECLARED = re.compile(
    rb"<meta[^>]{0,200}?charset=\s?[\"']?([\w.:-]{2,30})|<\?xml[^>]{0,100}?encoding=[\"']([\w.:-]{2,30})"
    rb"|\A(?:[^\n]*\n)?[ \t]*#[^\n]{0,100}?coding[:=][ \t]*([\w.-]{2,30})",
    re.IGNORECASE,
)
_DECLARED_BYTES = 1024  # it stands that near the start
# Those that are believed, and what they are read as. The Western ones are what templates say of any page, and what is
# taken where nothing else is known.
_DECLARABLE = {name: name for name in _CANDIDATES if name != "cp1252"} | {
    **{"iso8859-2": "iso8859_2", "iso8859-5": "iso8859_5", "koi8-r": "koi8_r", "koi8-u": "koi8_u"},
    **{f"iso8859-{part}": f"iso8859_{part}" for part in (3, 4, 6, 7, 8, 9, 10, 13, 15, 16)},
    **{"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "tis-620": "cp874"},
}
_CHINESE_OR_KOREAN = {"gb18030", "big5", "cp949"}
_KANA = re.compile("[\u3041-\u30fe]")
_NO_JAPANESE = re.compile("[\u3131-\u318e\uff61-\uff9f\ufffd]")  # single jamo, narrow kana
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_SIGNS = frozenset("«»„“”‚‘’–—…€£§°·•®©™²³½\xa0")


def decode_text(data: bytes) -> str:
    """UTF-8, UTF-16 and UTF-32 (by mark or by their zeros), else what the file says of itself near its start, where
    it can be that, else what the detector finds likeliest.

    Raises: Unprocessable `unsupported_file` when the bytes are not text.
    """
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _strict(data[len(mark) :], encoding)
    encoding = _utf32_by_zeros(data[:_HEAD_BYTES]) or _utf16_by_zeros(data[:_HEAD_BYTES])
    if encoding:
        return _strict(data, encoding)
    if b"\0" in data:
        raise _not_text("it holds zero bytes")
    if b"\x1b$" in data[:_HEAD_BYTES]:  # all ASCII, so it would pass as UTF-8
        try:
            return data.decode("iso2022_jp")
        except UnicodeDecodeError:
            pass
    try:
        return data.decode()
    except UnicodeDecodeError:
        return _almost_utf8(data) or _eight_bit(data)


def _strict(data: bytes, encoding: str) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise _not_text(f"it begins like {encoding.upper()} but is not") from None
    if _CONTROL_CHARS.search(text):
        raise _not_text("it holds control characters")
    return text


def _utf16_by_zeros(head: bytes) -> str:
    """Text in UTF-16 without a mark has its zeros in every second byte: in all of them where it is Latin, in the
    spaces and newlines elsewhere."""
    head = head[: len(head) // 2 * 2]
    for encoding, high, low in (
        ("utf-16-le", head[1::2], head[0::2]),
        ("utf-16-be", head[0::2], head[1::2]),
    ):
        is_latin = high.count(0) > 0.6 * len(high) and 0 not in low
        if 0 in high and (is_latin or _reads_well(head, encoding)):
            return encoding
    return ""


def _utf32_by_zeros(head: bytes) -> str:
    """Text in UTF-32 without a mark has a zero in every fourth byte; numbers of another kind of file make no text."""
    head = head[: len(head) // 4 * 4]
    for encoding, highest in (("utf-32-le", head[3::4]), ("utf-32-be", head[0::4])):
        if not highest or any(highest):
            continue
        try:
            text = head.decode(encoding)
        except UnicodeDecodeError:
            continue
        if not any(unicodedata.category(char) in _NO_TEXT for char in text if char not in "\t\r\n\f"):
            return encoding
    return ""


def _reads_well(head: bytes, encoding: str) -> bool:
    """Some of it is space, and nearly all of the rest letters, digits and punctuation."""
    text = head.decode(encoding, errors="ignore")
    num_spaces = sum(char in " \n\r\u3000。" for char in text)
    num_odd = sum(unicodedata.category(char) in _NO_TEXT for char in text if char not in "\t\r\n")
    return (
        num_spaces > 0.02 * len(text) and num_odd == 0 and len(text) >= 8 and not _is_ascii_with_zeros(head)
    )


def _is_ascii_with_zeros(head: bytes) -> bool:
    """Two ASCII letters make an ideograph of UTF-16."""
    return all(byte == 0 or byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head)


def _almost_utf8(data: bytes) -> str:
    """UTF-8 with a few broken characters (a cut-off log, say), broken ones replaced; else empty."""
    text = data.decode(errors="replace")
    num_foreign = sum(char > "\x7f" for char in text)
    broken = text.count("\N{REPLACEMENT CHARACTER}")
    return text if broken <= max(1, num_foreign) * _MAX_BROKEN_SHARE else ""


def _eight_bit(data: bytes) -> str:
    """A national encoding, by the language it would give."""
    if len(data.translate(None, _CONTROLS)) < len(data):
        raise _not_text("it holds control bytes")
    said = _declared(data)
    if said is not None:
        return said
    sample = _foreign_lines(data)
    if sum(byte > 0x7F for byte in sample) >= _MIN_FOREIGN_BYTES:
        best = from_bytes(sample, cp_isolation=_CANDIDATES, preemptive_behaviour=False).best()
        if best is not None:
            encoding = best.encoding
            if encoding in _LATIN:
                encoding = _likeliest_latin(sample)
            elif encoding in _CHINESE_OR_KOREAN:
                encoding = _likeliest_eastern(sample, encoding)
            return data.decode(encoding, errors="replace")
    try:
        return data.decode("cp1252")
    except UnicodeDecodeError:  # five bytes mean nothing there
        return data.decode("latin-1")


def _declared(data: bytes) -> str | None:
    """The text in the encoding that the file names; None where it names none, or cannot be in it."""
    found = _DECLARED.search(data, 0, _DECLARED_BYTES)
    if found is None:
        return None
    try:
        name = codecs.lookup(next(filter(None, found.groups())).decode()).name
        return data.decode(_DECLARABLE[name]) if name in _DECLARABLE else None
    except (LookupError, UnicodeDecodeError):
        return None


def _likeliest_latin(sample: bytes) -> str:
    """Encodings of Latin script differ in a few letters, which the detector's frequencies do not tell apart."""

    def share(encoding: str) -> float:
        text = sample.decode(encoding, errors="replace").lower()
        foreign = list(_FOREIGN.finditer(text))
        return sum(_fits(found, _LATIN[encoding]) for found in foreign) / max(1, len(foreign))

    return max(_LATIN, key=share)  # the first of equals


def _likeliest_eastern(sample: bytes, found: str) -> str:
    """Kana tell Japanese; Chinese and Korean encodings have a place for most of its bytes, too."""

    def num_kana(encoding: str) -> int:
        text = sample.decode(encoding, errors="replace")
        return len(_KANA.findall(text)) - len(_NO_JAPANESE.findall(text))

    japanese = max(("euc_jp", "cp932"), key=num_kana)
    return japanese if num_kana(japanese) >= max(1, num_kana(found)) else found


def _fits(found: re.Match[str], letters: frozenset[str]) -> bool:
    """A foreign character in its place: a letter of these, or a sign that is not inside a word."""
    text, at = found.string, found.start()
    return found[0] in letters or (
        found[0] in _SIGNS and not (text[at - 1 : at].isalpha() and text[at + 1 : at + 2].isalpha())
    )


def _foreign_lines(data: bytes) -> bytes:
    """The first lines that are not ASCII, up to _SAMPLE_BYTES: the others tell nothing."""
    sample = bytearray()
    for line in data.splitlines(keepends=True):
        if not line.isascii():
            sample += line[: _SAMPLE_BYTES - len(sample)]
            if len(sample) >= _SAMPLE_BYTES:
                break
    return bytes(sample)


def _not_text(why: str) -> Unprocessable:
    return Unprocessable(f"This file is binary data, not text: {why}.", code="unsupported_file")
