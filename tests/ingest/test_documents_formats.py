"""PDF, EPUB, e-mail and Zstandard: files made here, in Chinese, Russian and English, whole and broken."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import zstandard

from components.ingest.mail import LARGEST_MAIL, mail_records
from components.ingest.markup import parse, plain_text
from components.ingest.zst import ZstdFile
from tests.ingest.conftest import Ingest
from tests.tiny_corpus import poems

RUSSIAN = "Утро выдалось тихое и ясное; над рекой ещё стоял туман."
CHINESE = "山里的清晨很安静，只有溪水从石头上流过的声音。"
ENGLISH = "The harbour was quiet that morning, and the boats had not come back."


def metadata_of(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["metadata"])
    return found


# PDF


def pdf(pages: list[str], information: str = "", trailer: str = "") -> bytes:
    """A PDF with a page for each text; characters are drawn by their UTF-16 code, which a ToUnicode map gives back."""
    objects: list[bytes] = []
    numbers = " ".join(f"{6 + 2 * place} 0 R" for place in range(len(pages)))
    to_unicode = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /U def /CMapType 2 def\n"
        b"1 begincodespacerange <0000> <FFFF> endcodespacerange\n1 beginbfrange <0000> <FFFF> <0000> endbfrange\n"
        b"endcmap end end"
    )
    objects += [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{numbers}] /Count {len(pages)} >>".encode(),
        b"<< /Type /Font /Subtype /Type0 /BaseFont /F /Encoding /Identity-H /DescendantFonts [4 0 R] /ToUnicode 5 0 R >>",
        b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /F /DW 1000 /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(to_unicode), to_unicode),
    ]
    for place, text in enumerate(pages):
        lines = "".join(f"<{line.encode('utf-16-be').hex()}> Tj 0 -20 Td\n" for line in text.split("\n") if line)
        content = f"BT /F 10 Tf 20 800 Td\n{lines}ET".encode()
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 2000 900] /Resources << /Font << /F 3 0 R >> >> /Contents {7 + 2 * place} 0 R >>".encode()
        )
        objects.append(b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content))
    objects.append(f"<< {information} >>".encode())
    out = io.BytesIO(b"%PDF-1.4\n")
    out.seek(0, io.SEEK_END)
    places = []
    for number, body in enumerate(objects, start=1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    table = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    out.write("".join(f"{place:010d} 00000 n \n" for place in places).encode())
    out.write(f"trailer << /Size {len(objects) + 1} /Root 1 0 R /Info {len(objects)} 0 R {trailer} >>\n".encode())
    out.write(f"startxref\n{table}\n%%EOF\n".encode())
    return out.getvalue()


def test_a_pdf_is_a_document_with_blank_lines_between_pages(ingest: Ingest, tmp_path: Path) -> None:
    title = "".join(f"\\{byte:03o}" for byte in b"\xfe\xff" + "Утро".encode("utf-16-be"))
    data = pdf(
        [f"{RUSSIAN}\n{ENGLISH}", CHINESE], f"/Title ({title}) /Author (A. Nobody) /CreationDate (D:20210304050607Z)"
    )
    (tmp_path / "book.pdf").write_bytes(data)
    outcome = ingest(location=str(tmp_path / "book.pdf"))
    (row,) = outcome.rows
    assert row["text"] == f"{RUSSIAN}\n{ENGLISH}\n\n{CHINESE}"
    assert (row["title"], row["author"]) == ("Утро", "A. Nobody")
    assert metadata_of(row) == {"date": "2021-03-04", "pages": 2}
    assert outcome.metrics["bytes_read"] == len(data)


def test_pdfs_without_readable_text_say_why_and_the_others_are_read(ingest: Ingest, tmp_path: Path) -> None:
    key = "4e" * 32
    locked = f"/Encrypt << /Filter /Standard /V 1 /R 2 /O <{key}> /U <{key}> /P -4 >> /ID [<{key[:32]}> <{key[:32]}>]"
    target = tmp_path / "pdfs.zip"
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("1.pdf", pdf([CHINESE]))
        archive.writestr("2.pdf", pdf([ENGLISH], trailer=locked))
        archive.writestr("3.pdf", b"%PDF-1.4\nnothing that follows is a PDF")
        archive.writestr("4.pdf", pdf(["", "2"]))
        archive.writestr("5.pdf", b"")
    rows = ingest(location=str(target)).rows
    assert [row["text"] for row in rows] == [CHINESE, "", "", "", ""]
    reasons = [metadata_of(row).get("extraction", "") for row in rows]
    assert "encrypted" in reasons[1]
    assert "broken" in reasons[2]
    assert "no text layer" in reasons[3]
    assert "broken" in reasons[4]


# EPUB

CONTAINER = (
    '<?xml version="1.0"?><container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
    '<rootfiles><rootfile full-path="OEBPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
)
PACKAGE = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0">
<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>山中</dc:title><dc:creator>甲</dc:creator>
<dc:creator>乙</dc:creator><dc:language>zh</dc:language><dc:rights>CC0</dc:rights></metadata>
<manifest><item id="two" href="text/b%20two.xhtml" media-type="application/xhtml+xml"/>
<item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
<item id="one" href="text/../text/a.xhtml" media-type="application/xhtml+xml"/>
<item id="picture" href="p.png" media-type="image/png"/><item id="lost" href="lost.xhtml" media-type="application/xhtml+xml"/>
</manifest><spine><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/><itemref idref="lost"/><itemref idref="picture"/></spine></package>"""


def chapter(body: str, encoding: str = "utf-8") -> bytes:
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml">'
        f"<head><title/><style>p {{}}</style></head><body>{body}</body></html>"
    )
    return text.encode(encoding)


def epub(target: Path, changes: dict[str, bytes | None] | None = None) -> Path:
    files: dict[str, bytes | None] = {
        "META-INF/container.xml": CONTAINER.encode(),
        "OEBPS/book.opf": PACKAGE.encode(),
        "OEBPS/nav.xhtml": chapter("<nav>contents</nav>"),
        "OEBPS/text/a.xhtml": chapter(f"<h1>一</h1><p>{CHINESE}</p><p>two&nbsp;<b>bold</b>&mdash;end</p>", "utf-16"),
        "OEBPS/text/b two.xhtml": chapter(f"<h1>Два</h1><p>{RUSSIAN}<br/>verse</p><hr/><p>unclosed", "windows-1251"),
    }
    files.update(changes or {})
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    return target


def test_a_book_is_one_document_in_reading_order(ingest: Ingest, tmp_path: Path) -> None:
    (row,) = ingest(location=str(epub(tmp_path / "book.epub"))).rows
    assert row["text"] == f"一\n\n{CHINESE}\n\ntwo\u00a0bold—end\n\nДва\n\n{RUSSIAN}\nverse\n\nunclosed"
    assert (row["title"], row["author"]) == ("山中", "甲, 乙")
    assert metadata_of(row) == {"language": "zh", "license": "CC0", "parts_missing": 1}


ENCRYPTION = (
    '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container" xmlns:enc="http://www.w3.org/2001/04/xmlenc#">'
    '<enc:EncryptedData><enc:EncryptionMethod Algorithm="{way}"/><enc:CipherData>'
    '<enc:CipherReference URI="OEBPS/text/a.xhtml"/></enc:CipherData></enc:EncryptedData></encryption>'
)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"META-INF/container.xml": None}, "broken: it has no META-INF/container.xml"),
        ({"OEBPS/book.opf": None}, "broken: it has no OEBPS/book.opf"),
        ({"OEBPS/book.opf": b"\x00\x01"}, "broken: its OEBPS/book.opf is no XML"),
        ({"OEBPS/text/a.xhtml": None, "OEBPS/text/b two.xhtml": b""}, "no text in its reading order"),
        ({"META-INF/encryption.xml": ENCRYPTION.format(way="http://www.w3.org/2001/04/xmlenc#aes128-cbc").encode()}, "encrypted"),
        ({"OEBPS/text/a.xhtml": b" " * (33 << 20)}, "more than 33,554,432 bytes"),
    ],
)  # fmt: skip
def test_a_book_that_cannot_be_read_says_why(
    ingest: Ingest, tmp_path: Path, changes: dict[str, bytes | None], reason: str
) -> None:
    books = tmp_path / "books"
    books.mkdir()
    epub(books / "1.epub", changes)
    epub(books / "2.epub")
    first, second = ingest(location=str(books)).rows
    assert first["text"] == ""
    assert reason in metadata_of(first)["extraction"]
    assert CHINESE in second["text"]


def test_obfuscated_fonts_are_no_encryption_and_no_zip_is_no_book(ingest: Ingest, tmp_path: Path) -> None:
    books = tmp_path / "books"
    books.mkdir()
    epub(
        books / "1.epub",
        {"META-INF/encryption.xml": ENCRYPTION.format(way="http://www.idpf.org/2008/embedding").encode()},
    )
    (books / "2.epub").write_bytes(b"PK\x03\x04 and nothing else")
    first, second = ingest(location=str(books)).rows
    assert CHINESE in first["text"]
    assert "broken" in metadata_of(second)["extraction"]


def test_markup_becomes_lines_and_paragraphs() -> None:
    def text(html: str) -> str:
        tree = parse(html)
        return "" if tree is None else plain_text(tree)

    assert text("<p>a  b\n c</p>tail<div>d</div>") == "a b c\n\ntail\nd"
    assert text("<pre>def f():\n    return 1\n\n  x</pre>") == "def f():\n    return 1\n\n  x"
    assert text("<p>漢<ruby>字<rt>かんじ</rt></ruby>　と</p><script>no</script><!-- no -->") == "漢字　と"
    assert text("one<br>two<br><br>three") == "one\ntwo\n\nthree"
    assert text("<ul><li>甲</li><li>乙</li></ul><table><tr><td>1</td><td>2</td></tr></table>") == "甲\n乙\n\n1\n2"
    assert text("<div>" * 1500 + "глубоко" + "</div>" * 1500) == "глубоко"
    assert text("  ") == ""


# e-mail


def mail(text: str | None = None, html: str | None = None, charset: str = "utf-8", **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"Subject": "Тема письма", "From": "Иван Петров <ivan@example.ru>", **headers}.items():
        message[name] = value
    if text is not None:
        message.set_content(text, charset=charset)
    if html is not None:
        (message.add_alternative if text is not None else message.set_content)(html, subtype="html", charset=charset)
    return message


def read_mail(data: bytes) -> list[Any]:
    class Bytes(io.BytesIO):
        where = "source 'mail': 1"

    return list(mail_records(Bytes(data), "auto"))


def test_a_mail_gives_subject_sender_date_and_its_plain_text(ingest: Ingest, tmp_path: Path) -> None:
    message = mail(
        f"{RUSSIAN}\n", "<p>html</p>", "windows-1251", To="кто <a@b.example>", Date="Mon, 04 Mar 2024 05:06:07 +0300"
    )
    message.add_attachment(b"text of an attachment", maintype="text", subtype="plain", filename="a.txt")
    (tmp_path / "1.eml").write_bytes(message.as_bytes())
    (row,) = ingest(location=str(tmp_path / "1.eml")).rows
    assert row["text"] == RUSSIAN
    assert (row["title"], row["author"]) == ("Тема письма", "Иван Петров")
    assert metadata_of(row) == {
        "from": "Иван Петров <ivan@example.ru>",
        "to": "кто <a@b.example>",
        "date": "2024-03-04T05:06:07+03:00",
    }


@pytest.mark.parametrize("transfer", ["quoted-printable", "base64", "8bit"])
@pytest.mark.parametrize(
    ("text", "charset"), [(RUSSIAN, "koi8-r"), (CHINESE, "gb18030"), (CHINESE, "utf-8"), (RUSSIAN, "windows-1251")]
)
def test_transfer_encodings_and_legacy_charsets(text: str, charset: str, transfer: str) -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content(text, charset=charset, cte=transfer)
    (record,) = read_mail(message.as_bytes())
    assert record.text == text
    assert "encoding" not in json.loads(record.metadata)


def test_html_alone_is_extracted_and_a_wrong_charset_found_out() -> None:
    html = f"<html><body><p>{RUSSIAN}</p><p>{RUSSIAN * 3}</p><script>no()</script></body></html>".encode("windows-1251")
    data = b"Subject: x\nContent-Type: text/html; charset=us-ascii\nContent-Transfer-Encoding: 8bit\n\n" + html
    (record,) = read_mail(data)
    assert RUSSIAN in record.text
    assert "no()" not in record.text
    assert {"encoding": "cp1251", "declared": "us-ascii"}.items() <= json.loads(record.metadata).items()


def test_bytes_in_headers_have_the_charset_that_the_body_has() -> None:
    data = (
        b"Subject: "
        + "Сообщение о погоде".encode("koi8-r")
        + b"\nContent-Type: text/plain; charset=koi8-r\n\n"
        + RUSSIAN.encode("koi8-r")
    )
    (record,) = read_mail(data)
    assert (record.title, record.text) == ("Сообщение о погоде", RUSSIAN)


def test_encoded_words_may_divide_a_character() -> None:
    data = "山里的清晨".encode()
    words = [base64.b64encode(part).decode() for part in (data[:4], data[4:])]
    raw = f"Subject: Re: =?utf-8?B?{words[0]}?=\n =?UTF-8?b?{words[1]}?= end\nFrom: =?koi8-r?Q?=E9=D7=C1=CE?= <i@example.ru>\n\nbody\n"
    (record,) = read_mail(raw.encode())
    assert record.title == "Re: 山里的清晨 end"
    assert record.author == "Иван"
    (record,) = read_mail(b"From: someone@example.org (x@y)\nSubject: =?nonsense?B?!!!?= =?utf-8?Q?=ZZ?=\n\nbody")
    assert record.author is None, "an address is no name"


def test_a_mailbox_is_divided_at_its_separators_only(ingest: Ingest, tmp_path: Path) -> None:
    body = f"{CHINESE}\n\n>From the sea, quoted\n\nFrom there 10:15 it went on\nwithout a header\n"
    box = "".join(f"From a@b.example Mon Mar  4 05:06:0{n} 2024\nSubject: {n}\n\n{body}{n}\n\n" for n in range(3))
    (tmp_path / "box.mbox").write_text(box, encoding="utf-8")
    rows = ingest(location=str(tmp_path / "box.mbox")).rows
    assert [(row["title"], row["provenance"]["row"]) for row in rows] == [("0", 0), ("1", 1), ("2", 2)]
    expected = body.replace(">From", "From")
    assert [row["text"] for row in rows] == [f"{expected}{n}" for n in range(3)]


def test_a_mail_that_claims_parts_and_has_none_keeps_its_text() -> None:
    (record,) = read_mail(b"Subject: x\nContent-Type: multipart/mixed; charset=utf-8\n\n" + CHINESE.encode())
    assert record.text == CHINESE.strip("\n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", None),
        (b"no headers at all", "no headers"),
        (b"\xff\xfe\x00" * 40, "no headers"),
        (b"Subject: x\n\n   \n", "blank"),
        (b"Subject: x\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA", "only image/png"),
        (b"Subject: x\nContent-Type: text/html\n\n<html><body><img src=a></body></html>", "HTML has no text"),
        (b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b--\n", "empty"),
    ],
)
def test_a_mail_without_text_says_why(data: bytes, reason: str | None) -> None:
    records = read_mail(data)
    assert [record.text for record in records] == ([] if reason is None else [""])
    assert all(reason is not None and reason in json.loads(record.metadata)["extraction"] for record in records)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Type: text/plain charset=us-ascii",
        "Content-Type: text/plain; charset=\"no such charset\x7f\"",
        "Content-Type: text/plain; charset*=utf-8''%ZZ",
        "Content-Type: ;;;",
        "Content-Type: multipart/mixed",
        "Content-Transfer-Encoding: base65",
        "Date: the day after\nFrom: <<>>\nTo: ,,;",
        "Date: Mon, 99 Foo 99999 99:99:99 +99999",
    ],
)  # fmt: skip
def test_malformed_mails_are_read_all_the_same(head: str) -> None:
    (record,) = read_mail(f"Subject: x\n{head}\n\n{ENGLISH}\n".encode())
    assert record.text in (ENGLISH, "")
    assert record.title == "x"
    assert record.text or "extraction" in json.loads(record.metadata)


def test_a_boundary_other_than_the_declared_one_is_found() -> None:
    data = f'Subject: x\nContent-Type: multipart/alternative; boundary="=B 1"\n\n--= B 1\nContent-Type: text/plain\n\n{ENGLISH}\n--= B 1--\n'
    (record,) = read_mail(data.encode())
    assert record.text == ENGLISH


def test_flowed_paragraphs_become_lines_and_attached_mails_are_read() -> None:
    data = b"Subject: x\nContent-Type: text/plain; format=flowed\n\none \ntwo\n> quoted \n> more\n-- \nme\n"
    (record,) = read_mail(data)
    assert record.text == "one two\n> quoted more\n-- \nme"
    outer = mail("forwarded:")
    outer.add_attachment(mail(CHINESE))
    (record,) = read_mail(outer.as_bytes())
    assert record.text == f"forwarded:\n\n{CHINESE}"


def test_a_huge_mail_and_a_bottomless_one_keep_memory_and_stack() -> None:
    head = b"Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n" + ENGLISH.encode()
    attachment = b"\n--b\nContent-Type: application/zip\nContent-Disposition: attachment\n\n" + b"A" * (
        LARGEST_MAIL + 10
    )
    (record,) = read_mail(head + attachment)
    assert record.text == ENGLISH
    assert json.loads(record.metadata)["cut_after_bytes"] == LARGEST_MAIL
    nested = b"Subject: x\n" + b"Content-Type: message/rfc822\n\n" * 3000 + b"deep\n"
    (record,) = read_mail(nested)
    assert record.text == ""
    assert "extraction" in json.loads(record.metadata)


# Zstandard


def packed(data: bytes, frames: int = 1) -> bytes:
    step = -(-len(data) // frames)
    compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
    return b"".join(compressor.compress(data[at : at + step]) for at in range(0, len(data), step))


def jsonl() -> bytes:
    return "".join(json.dumps(poem, ensure_ascii=False) + "\n" for poem in poems(50)).encode()


@pytest.mark.parametrize("frames", [1, 7])
def test_zst_is_read_as_gz_is(ingest: Ingest, tmp_path: Path, frames: int) -> None:
    expected = ["\n".join(poem["paragraphs"]) for poem in poems(50)]
    (tmp_path / "poems.jsonl.zst").write_bytes(packed(jsonl(), frames))
    outcome = ingest(location=str(tmp_path / "poems.jsonl.zst"), text_field="paragraphs")
    assert outcome.texts == expected
    assert outcome.metrics["bytes_read"] == len(jsonl())
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        entry = tarfile.TarInfo("poems.jsonl")
        entry.size = len(jsonl())
        archive.addfile(entry, io.BytesIO(jsonl()))
    (tmp_path / "poems.tar.zst").write_bytes(packed(tar.getvalue(), frames))
    assert ingest(location=str(tmp_path / "poems.tar.zst"), text_field="paragraphs").texts == expected


@pytest.mark.parametrize(
    "harm",
    [lambda data: data[:-3], lambda data: data[: len(data) // 2], lambda data: data + b"garbage", lambda data: b"no zst" + data],
)  # fmt: skip
def test_damaged_zst_is_told_in_one_sentence(ingest: Ingest, tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    (tmp_path / "poems.jsonl.zst").write_bytes(harm(packed(jsonl(), 2)))
    said = ingest(location=str(tmp_path / "poems.jsonl.zst"), text_field="paragraphs").refused()
    assert "truncated or damaged" in said
    assert "poems.jsonl.zst" in said


def test_any_sizes_of_reading_give_the_same_bytes_and_a_bomb_comes_out_slowly() -> None:
    data = jsonl() * 3
    for size in (1, 1000, 1 << 20, -1):
        file = ZstdFile(io.BytesIO(packed(data, 3)))
        found = b"".join(iter(lambda: file.read(size), b""))  # noqa: B023
        assert found == data
    bomb = ZstdFile(io.BytesIO(packed(bytes(200 << 20))))
    assert len(bomb.read(1000)) == 1000
    assert len(bomb._out) < 64 << 20, "what a piece of the file stands for, not all of it"
