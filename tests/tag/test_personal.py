"""Personal data: what is replaced, and what only looks like it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from components.chat.markup import SPECIAL_TEXTS, escape
from components.configuration.tag import Pii
from components.corpus.tagged_documents import tagged_schema
from components.tag.personal import PLACEHOLDERS, Scrubber
from tests import curated

_ALL = Scrubber(Pii(email=True, phone=True, ip=True, card=True))


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "Write to a.b+c@d-e.co.uk.", "Write to <email>."),
        ("en", "<mailto:jm@example.org>", "<mailto:<email>>"),
        ("zh", "邮箱zhang.san@example.cn谢谢", "邮箱<email>谢谢"),
        ("ru", "пишите на иван@почта.рф, а не домой", "пишите на <email>, а не домой"),
        ("en", "from [64.161.22.236] and 2001:4860:4860::8888", "from [<ip>] and <ip>"),
        ("zh", "服务器114.114.114.114已关", "服务器<ip>已关"),
        ("en", "card 4111 1111 1111 1111 12/25", "card <card> 12/25"),
        ("en", "3782-822463-10005 or 5500005555555559", "<card> or <card>"),
        ("zh", "卡号6222021234567890128。", "卡号<card>。"),
        ("en", "Call (415) 555-2671 or 415.555.2671 ext. 12.", "Call <phone> or <phone>."),
        ("en", "1-800-275-2273, in London +44 20 7946 0958", "<phone>, in London <phone>"),
        ("en", "phone: 4155552671", "phone: <phone>"),
        ("zh", "电话：010-62751234，手机13812345678。", "电话：<phone>，手机<phone>。"),
        ("zh", "手机１３８１２３４５６７８", "手机<phone>"),
        ("ru", "Тел. 8 (495) 123-45-67, моб. 89161234567", "Тел. <phone>, моб. <phone>"),
        ("ru", "+7 916 123 45 67; 8 800 555-35-35", "<phone>; <phone>"),
        ("und", "+86 138 1234 5678", "<phone>"),
    ],
)
def test_personal_data_is_replaced(language: str, text: str, expected: str) -> None:
    scrubbed, counts = _ALL(text, language)
    assert scrubbed == expected
    assert {name: expected.count(mark) for name, mark in PLACEHOLDERS.items()} == counts


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "on 2002-09-22 12:30:45, 22.09.2002, 09/22/2002 and 20020922"),
        ("en", "1914-1918, 1939–1945 and 2001/2002"),
        ("en", "ISBN 978-0-415-55526-9, ISBN 0-415-55526-7, 978-0-306-40615-7"),
        ("en", "$2,125,551,234 and $ 415 555 2671 and 415 555 2671 dollars"),
        ("en", "order 4155552671, see http://example.org/id/4155552671?q=4155552672"),
        ("en", "415-555-26 and 12:30:45.123456 and 3.14159265358979"),
        ("en", "192.168.1.1, 10.0.0.7, 127.0.0.1, version 10.20.30.40, section 1.2.3.4, 1.2.3.4.5, 300.1.1.1"),
        ("en", "std::string dead::beef 12:30:45 2001:db8::1"),
        ("en", "4111 1111 1111 1112, 4111111111111112, 1234567890123456, 41111111111111111111111"),
        ("en", "icon@2x.png, @handle, a @ b, user@host, @@@"),
        ("ru", "12 500 000 000 руб. в 1812-1814 годах, 9 161 234 567 рублей, население 1 412 600 000"),
        ("ru", "с 24.06.1812 по 14.12.1812; ISBN 5-699-12014-0; версия 10.20.30.40"),
        ("zh", "共12,500,000元，13812345678元，生于1901-1970，1949年10月1日，版本号11.22.33.44"),
        ("zh", "ISBN 978-7-101-00344-5，二〇〇二年"),
        ("und", "415-555-2671 and 010-62751234: no region, no plan to read them by"),
        ("zh", "春眠不觉晓，处处闻啼鸟。"),
        ("en", ""),
    ],
)
def test_what_only_looks_like_it_stays(language: str, text: str) -> None:
    assert _ALL(text, language) == (text, dict.fromkeys(PLACEHOLDERS, 0))


def test_only_what_was_asked_for_is_looked_for_and_counted() -> None:
    text = "a@b.org, 64.161.22.236, 4111 1111 1111 1111, (415) 555-2671"
    for setting, name in (("email", "pii_emails"), ("ip", "pii_ips"), ("card", "pii_cards"), ("phone", "pii_phones")):
        scrubbed, counts = Scrubber(Pii(**{setting: True}))(text, "en")
        assert counts == {name: 1}
        assert [mark for mark in PLACEHOLDERS.values() if mark in scrubbed] == [PLACEHOLDERS[name]]
    assert Scrubber(Pii())(text, "en") == (text, {})


def test_scrubbing_twice_changes_nothing_more() -> None:
    once, _ = _ALL("a@b.org (415) 555-2671 64.161.22.236 4111 1111 1111 1111", "en")
    assert once == "<email> <phone> <ip> <card>"
    assert _ALL(once, "en") == (once, dict.fromkeys(PLACEHOLDERS, 0))


def test_placeholders_are_no_markers_of_the_tokenizer() -> None:
    for mark in PLACEHOLDERS.values():
        assert escape(mark) == mark
        assert not any(special in mark or mark in special for special in SPECIAL_TEXTS)


@pytest.mark.parametrize(
    "unit", ["1", "12 ", "1-", "a@", "@", "4111 ", "1.1.1.1.", "+1 ", "2001:", "(1", "1" * 19 + " ", "x@a.", "１"]
)
def test_time_is_linear_whatever_the_text(unit: str) -> None:
    text = (unit * 300_000)[:300_000]
    started = time.process_time()
    _ALL(text, "en")
    assert time.process_time() - started < 3, "a quadratic search of this text would take minutes"


def test_titles_and_authors_are_scrubbed_with_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        curated.raw_row("Пишите на a@b.org, мы ответим всем.", 0, "Ответ для c@d.org", "Иван <e@f.org>"),
        curated.raw_row("春眠不觉晓，处处闻啼鸟。", 1, None, "孟浩然"),
    ]
    metrics = curated.tag(tmp_path, rows, pii={"email": True}).metrics
    first, second = curated.rows_of(tmp_path / "tagged/documents.parquet", tagged_schema())
    assert (first["title"], first["author"]) == ("Ответ для <email>", "Иван <<email>>")
    assert first["tags"]["pii_emails"] == metrics["pii_emails"] == 3
    assert (second["title"], second["author"], second["tags"]["pii_emails"]) == (None, "孟浩然", 0)
