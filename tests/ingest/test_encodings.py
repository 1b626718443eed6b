"""Bytes of real prose and verse, in the encodings that are met, become exactly the text that they were."""

from __future__ import annotations

import io
import random

import pytest

from components.errors import InkwellError
from components.ingest.alphabets import is_thai
from components.ingest.encodings import Text
from components.ingest.long_documents import cut
from tests.conftest import SHARED_WAR_AND_PEACE
from tests.tiny_corpus import poems

RUSSIAN = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n" * 30
FRENCH = "Où êtes-vous allés cet été ? Le garçon a mangé des œufs à l’hôtel, très déçu — « hélas ».\n" * 20
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。\n" * 20
CHINESE = "\n".join(line for poem in poems(200) for line in poem["paragraphs"])


class Bytes(io.BytesIO):
    where = "source 'tiny': file.txt"


def decoded(data: bytes, encoding: str = "auto") -> tuple[str, str]:
    text = Text(Bytes(data), encoding)
    return text.read(), text.encoding


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RUSSIAN, "windows-1251"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "utf-16-le"),
        (RUSSIAN, "iso8859-5"),
        (CHINESE, "gb18030"),
        (CHINESE, "utf-16"),
        (CHINESE, "utf-16-be"),
        (CHINESE, "utf-8-sig"),
        (CHINESE, "utf-32"),
        (JAPANESE, "shift_jis"),
        (JAPANESE, "euc_jp"),
        (FRENCH, "windows-1252"),
        ("Zażółć gęślą jaźń. Cześć, jak się masz? Dziękuję, dobrze.\n" * 20, "windows-1250"),
        ("안녕하세요. 저는 학생입니다. 오늘은 날씨가 좋습니다.\n" * 20, "euc_kr"),
    ],
)
def test_an_undeclared_encoding_is_found_by_content(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding))[0] == text


@pytest.mark.parametrize("encoding", ["windows-1251", "gb18030", "utf-16", "utf-8"])
def test_a_text_of_many_pieces_loses_nothing_at_their_seams(encoding: str) -> None:
    text = RUSSIAN * 800 if encoding == "windows-1251" else (RUSSIAN + CHINESE) * 200
    data = text.encode(encoding)
    assert len(data) > 2 << 20
    assert decoded(data)[0] == text
    assert decoded(data, encoding)[0] == text


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("iso8859-2", "Zażółć gęślą jaźń. Wieczorem długo szliśmy wzdłuż rzeki, ponieważ był późny wieczór. "),
        ("cp1250", "Zażółć gęślą jaźń. Wieczorem długo szliśmy wzdłuż rzeki, ponieważ był „późny” wieczór. "),
        ("iso8859-2", "Příliš žluťoučký kůň úpěl ďábelské ódy. Večer jsme dlouho šli podél řeky a mlčeli. "),
        ("iso8859-9", "Pijamalı hasta yağız şoföre çabucak güvendi. Akşam nehir boyunca uzun süre yürüdük. "),
        ("iso8859-15", "Où êtes-vous allés cet été ? Le garçon a mangé des œufs, très déçu, pour 5 €. "),
        ("iso8859-15", "Illalla kävelimme pitkään joen äärellä ja hiljenimme, yö oli pimeä. "),
        ("cp1257", "Įlinkdama fechtuotojo špaga sublykčiojusi pragręžė apvalų arbūzą. "),
        ("cp874", "เช้าวันหนึ่งในฤดูใบไม้ผลิเราเดินเล่นริมแม่น้ำเป็นเวลานานและไม่มีใครพูดอะไร "),
        ("iso2022_jp", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
    ],
)
def test_letters_of_one_language_tell_what_bytes_do_not(encoding: str, text: str) -> None:
    assert decoded((text * 8).encode(encoding))[0] == text * 8


def test_korean_and_hebrew_are_not_taken_for_thai() -> None:
    for encoding, text in (
        ("cp949", "나라의 말이 중국과 달라 문자와 서로 통하지 아니하므로 "),
        ("cp1255", "בבוקר אביבי הלכנו זמן רב לאורך הנהר "),
    ):
        assert decoded((text * 8).encode(encoding))[0] == text * 8
        assert not is_thai((text * 8).encode(encoding))


def test_a_text_without_line_ends_may_be_cut_within_a_character() -> None:
    text = "春江潮水连海平，海上明月共潮生。" * 40_000
    for shift in range(2):
        assert decoded(("a" * shift + text).encode("gb18030"))[0] == "a" * shift + text


def test_ascii_for_megabytes_and_then_a_legacy_encoding_is_read_right() -> None:
    text = "plain line of text\n" * 80_000 + RUSSIAN
    assert decoded(text.encode("windows-1251")) == (text, "cp1251")


@pytest.mark.skipif(not SHARED_WAR_AND_PEACE.is_dir(), reason="the shared test data is not beside the project")
@pytest.mark.parametrize("name", ["wap1.txt", "wap2.txt"])
def test_war_and_peace_is_exactly_windows_1251_with_line_feeds(name: str) -> None:
    data = (SHARED_WAR_AND_PEACE / name).read_bytes()
    assert b"\r\n" in data
    assert decoded(data) == (data.decode("windows-1251").replace("\r\n", "\n"), "cp1251")


def test_crlf_and_lone_cr_become_lf_even_across_pieces() -> None:
    data = b"a" * ((1 << 20) - 1) + b"\r\nb\rc\n"
    assert decoded(data)[0] == "a" * ((1 << 20) - 1) + "\nb\nc\n"


def test_a_declared_encoding_that_does_not_fit_names_file_and_byte() -> None:
    with pytest.raises(InkwellError, match=r"file\.txt is not gb18030 at byte 1,500,000: set `encoding`"):
        decoded(b"a" * 1_500_000 + b"\xff\xff", "gb18030")


@pytest.mark.parametrize("text", [CHINESE, RUSSIAN, FRENCH * 20, CHINESE * 300])
def test_utf8_with_a_bad_byte_is_read_as_utf8_and_the_byte_is_counted(text: str) -> None:
    data = text.encode()
    place = data.index(b"\n", len(data) * 2 // 3)
    damaged = Text(Bytes(data[:place] + b"\xff" + data[place:]), "auto")
    assert damaged.read() == data[:place].decode() + "\ufffd" + data[place:].decode()
    assert (damaged.encoding, damaged.faults.bytes_replaced, damaged.faults.first_replaced) == ("utf-8", 1, place)
    with pytest.raises(InkwellError, match=rf"file\.txt is not utf-8 at byte {place:,}: set `encoding`"):
        decoded(data[:place] + b"\xff" + data[place:], "utf-8")


def test_a_replaced_sequence_is_not_counted_among_genuine_replacement_characters() -> None:
    text = RUSSIAN + "\ufffd" + RUSSIAN
    sound = Text(Bytes(text.encode()), "auto")
    assert sound.read() == text
    assert sound.faults.bytes_replaced == 0


def test_a_bad_byte_in_another_encoding_found_by_content_is_counted_too() -> None:
    data = (RUSSIAN * 600).encode("windows-1251")
    assert len(data) > 1 << 20
    damaged = Text(Bytes(data[:-100] + b"\x98" + data[-100:]), "auto")
    assert damaged.read().count("\ufffd") == 1
    assert (damaged.encoding, damaged.faults.bytes_replaced, damaged.faults.first_replaced) == (
        "cp1251",
        1,
        len(data) - 100,
    )


def test_a_file_in_two_encodings_is_refused_with_both_figures() -> None:
    data = (RUSSIAN * 300).encode() + (RUSSIAN * 300).encode("windows-1251")
    with pytest.raises(InkwellError, match=r"file\.txt is not utf-8: [\d,]+ of [\d,]+ bytes .* several encodings"):
        decoded(data)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("lowest", [0, 1])
def test_bytes_that_are_no_text_are_refused_by_name(seed: int, lowest: int) -> None:
    rng = random.Random(seed)
    data = bytes(rng.randrange(lowest, 256) for _ in range(20_000))
    with pytest.raises(InkwellError, match=r"file\.txt is not text .*`encoding`"):
        decoded(data)


def test_bytes_full_of_nul_are_refused_whatever_encoding_is_declared() -> None:
    with pytest.raises(InkwellError, match="4 of 8 characters are NUL"):
        decoded("text".encode("utf-16-le"), "latin-1")
    with pytest.raises(InkwellError, match=r"2,000 of [\d,]+ bytes are NUL"):
        decoded(CHINESE.encode()[:3000] + b"\0" * 2000)


@pytest.mark.parametrize("encoding", ["utf-8", "windows-1251", "koi8-r"])
def test_a_few_nul_bytes_do_not_make_utf16_of_a_text(encoding: str) -> None:
    data = RUSSIAN.encode(encoding)
    text = Text(Bytes(data[:1000] + b"\0\0\0" + data[1000:]), "auto")
    assert text.read().replace("\0", "") == RUSSIAN
    assert text.faults.nul_characters == 3


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("text", [RUSSIAN, CHINESE, JAPANESE, FRENCH, "plain English words\n" * 50])
def test_utf16_without_its_mark_is_not_taken_for_text_with_nul_bytes(text: str, encoding: str) -> None:
    assert decoded(text.encode(encoding))[0] == text


def test_two_characters_are_too_few_to_tell_an_encoding() -> None:
    with pytest.raises(InkwellError, match=r"file\.txt is too short to tell its encoding .*`encoding`"):
        decoded("漢字".encode("gb18030"))
    assert decoded("漢字".encode("gb18030"), "gb18030")[0] == "漢字"


def test_an_empty_file_is_an_empty_text() -> None:
    assert decoded(b"") == ("", "utf-8")


def test_only_a_line_feed_ends_a_line() -> None:
    text = "one\u2028still one\x0b\nthree"
    assert list(Text(Bytes(text.encode()), "auto").lines()) == ["one\u2028still one\x0b\n", "three"]


def test_a_line_over_many_pieces_is_one_line() -> None:
    long = "длинная строка " * 200_000
    assert list(Text(Bytes(f"a\n{long}\nb".encode()), "auto").lines()) == ["a\n", long + "\n", "b"]


def documents(text: str, separator: str | None, maximum: int = 10_000_000) -> list[tuple[int, int, str]]:
    return list(Text(Bytes(text.encode()), "auto").documents(separator, maximum))


def test_a_separator_across_two_pieces_still_divides() -> None:
    first = "a" * ((1 << 20) - 2)
    assert documents(f"{first}\n%\nb\n%\n", "\n%\n") == [(0, 0, first), (1, 0, "b")]
    for shift in range(6):
        first = "a" * ((1 << 20) - shift)
        assert [text for _, _, text in documents(f"{first}\n\n\n\nb\n", "\n\n")] == [first, "b"]


def test_a_long_document_comes_in_parts_that_joined_are_the_document() -> None:
    text = ("первая строка\n" * 90_000) + "汉" * 2_000_000
    found = documents(text, None, 300_000)
    assert "".join(part for _, _, part in found) == text
    assert [(row, part) for row, part, _ in found] == [(0, number) for number in range(1, len(found) + 1)]
    assert max(len(part) for _, _, part in found) <= 300_000
    assert all(part.endswith("\n") for _, _, part in found[:4]), "line ends are better places to cut"
    assert documents("", None) == [(0, 0, "")]


def test_between_separators_only_the_long_document_comes_in_parts() -> None:
    long = "слово " * 1_000_000
    found = documents(f"первый\n%\n{long}\n%\n \n%\nтретий", "\n%\n", 2_500_000)
    assert [(row, part) for row, part, _ in found] == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    assert "".join(text for row, _, text in found if row == 1) == long
    assert (found[0][2], found[-1][2]) == ("первый", "третий")


def test_a_part_does_not_begin_with_a_combining_mark() -> None:
    text = "e\u0301" * 700
    parts = list(cut(text, 101))
    assert "".join(parts) == text
    assert {part[0] for part in parts} == {"e"}
    assert max(map(len, parts)) <= 101
