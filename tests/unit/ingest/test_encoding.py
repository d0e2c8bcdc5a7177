from __future__ import annotations

import random

import pytest

from gateway.errors import Unprocessable
from gateway.ingest.encoding import decode_text

RUSSIAN = "Шлюз закрывается сам. Никто его не открывает, кроме хранителя моста.\n"
POLISH = "Zażółć gęślą jaźń. Brama zamyka się sama o północy, a strażnik śpi.\n"
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy. Brána se zavírá sama.\n"
HUNGARIAN = "Árvíztűrő tükörfúrógép. A kapu magától bezárul, és csak az őr nyitja ki.\n"
FRENCH = "La porte se ferme d'elle-même, à minuit. L'été, le gardien dort près du pont. Où ça?\n"
GERMAN = "Die Tür schließt sich um Mitternacht von selbst. Der Wächter schläft. Größe: fünf.\n"
TURKISH = "Kapı gece yarısı kendiliğinden kapanır. Bekçi şimdi köprünün yanında uyuyor.\n"
GREEK = "Η πύλη κλείνει μόνη της τα μεσάνυχτα. Μόνο ο φύλακας την ανοίγει.\n"
JAPANESE = "門は自動的に閉まります。管理人だけが開けることができます。\n"
CHINESE = "大门自动关闭。只有管理员可以打开它。门票的价格是五元。\n"
KOREAN = "문은 저절로 닫힙니다. 관리인만 열 수 있습니다.\n"


@pytest.mark.parametrize("times", [1, 30])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (RUSSIAN, "cp866"),
        (RUSSIAN, "iso8859_5"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859_2"),
        (CZECH, "cp1250"),
        (CZECH, "iso8859_2"),
        (HUNGARIAN, "cp1250"),
        (FRENCH, "cp1252"),
        (GERMAN, "iso8859_1"),
        (TURKISH, "cp1254"),
        (GREEK, "cp1253"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (JAPANESE, "iso2022_jp"),
        (CHINESE, "gb18030"),
        (KOREAN, "cp949"),
    ],
)
def test_a_national_encoding_is_known_by_its_letters(text: str, encoding: str, times: int) -> None:
    assert decode_text((text * times).encode(encoding)) == text * times


@pytest.mark.parametrize(
    "text", [RUSSIAN, GREEK, CHINESE * 3, "plain enough\n"], ids=["ru", "el", "zh", "en"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_characters_are_known_without_a_mark(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


def test_one_foreign_line_among_thousands_tells_the_encoding() -> None:
    text = "plain ascii line of a log\n" * 20_000 + RUSSIAN
    assert decode_text(text.encode("cp1251")) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('<html><head><meta charset="windows-1251"></head><p>Цена 5</p>', "cp1251"),
        ('<meta http-equiv="Content-Type" content="text/html; charset=Shift_JIS"><p>門</p>', "shift_jis"),
        ("<?xml version='1.0' encoding='ISO-8859-2'?><a>Łódź</a>", "iso8859_2"),
        ("#!/usr/bin/env python\n# -*- coding: koi8-r -*-\nname = 'мост'\n", "koi8_r"),
    ],
    ids=["meta", "content type", "xml", "python"],
)
def test_too_few_letters_to_tell_are_read_as_the_file_says(text: str, encoding: str) -> None:
    assert decode_text(text.encode(encoding)) == text


@pytest.mark.parametrize(
    "said",
    [
        '<meta charset="windows-1251">',
        '<meta charset="ascii">',
        '<meta charset="nonsense">',
        "charset=koi8-r\n",
    ],
)
def test_what_a_file_says_wrongly_or_in_passing_is_not_believed(said: str) -> None:
    data = said.encode() + "<p>Zażółć gęślą jaźń.</p>".encode()
    assert decode_text(data) == data.decode()
    assert (
        decode_text(b'<meta charset="shift_jis">' + b"na\xefve caf\xe9")
        == '<meta charset="shift_jis">naïve café'
    )
    assert decode_text(b"charset=koi8-r\nna\xefve caf\xe9") == "charset=koi8-r\nnaïve café"


@pytest.mark.parametrize("text", ["It costs 5 €, “said” Grüße", "naïve café"])
def test_few_foreign_letters_are_western(text: str) -> None:
    assert decode_text(text.encode("cp1252")) == text


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 1000,
        b"text with a \0 inside",
        b"\x80\x81\x01\x02 no encoding",
        b"\xff\xfe\x00\xd8",
        b"\1\0\2\0\3\0" * 9,
        b"\1\0\0\0\2\0\0\0" * 9,
    ],
    ids=["zeros", "zero", "controls", "lone surrogate", "numbers", "wide numbers"],
)
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(Unprocessable) as caught:
        decode_text(data)
    assert caught.value.code == "unsupported_file"
    assert caught.value.message.startswith("This file is binary data, not text: it ")


def test_random_bytes_are_read_or_refused_and_nothing_else() -> None:
    rng = random.Random(5)
    assert {_code_of(rng.randbytes(rng.randrange(400))) for _ in range(300)} <= {"", "unsupported_file"}


def _code_of(data: bytes) -> str:
    """The error's code, or empty when it is text."""
    try:
        decode_text(data)
    except Unprocessable as error:
        return error.code
    return ""
