"""The tokenizer report: right figures, whole texts, a page that opens without a network."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from components.configuration import Tokenizer
from components.tokenizer.comparison import Span, cost, entropy, gpt2, own, sample, spans, utf8
from components.tokenizer.report import visible, write_report
from components.tokenizer.train import count_tokens, learned_tokens, sample_lines, train_tokenizer, write_tokenizer
from tests.tiny_corpus import clean_rows

_RUSSIAN = "Весенним утром мы долго шли вдоль реки и молчали, и никто не сказал ни слова."
_TEXTS = [
    "春山随故园，秋水照人家。",
    _RUSSIAN,
    "On a spring morning <b>we</b> walked.\nNothing $was said.",
    "e\u0301😀 한 ع\u200d",
]


def test_gpt2_cuts_as_published() -> None:
    """Ids of the published tokenizer (checked against transformers' documentation and by hand)."""
    cutter = gpt2()
    assert len(cutter.spelled) == 50257
    assert cutter.encode(["Hello world"]) == [[15496, 995]]
    assert cutter.encode([" SolidGoldMagikarp"]) == [[43453]]
    assert cutter.encode(["The year 2024"])[0][:2] == [464, 614]


@pytest.mark.parametrize("text", _TEXTS)
def test_every_tokenizer_spells_the_whole_text_and_its_stretches_are_readable(
    text: str, tokenizer_folder: Path
) -> None:
    for cutter in (own(tokenizer_folder), gpt2(), utf8()):
        pieces = cutter.cut(text)
        assert b"".join(pieces) == text.encode(), cutter.name
        shown = spans(pieces)
        assert "".join(span.text for span in shown) == text
        assert sum(span.tokens for span in shown) == len(pieces)
    assert spans(utf8().cut("春a")) == [Span("春", 3), Span("a", 1)]


def test_costs_are_those_of_a_count_by_hand(tokenizer_folder: Path) -> None:
    texts = ["abab", "春"]
    plain = cost(utf8(), texts)
    assert (plain.characters, plain.bytes, plain.tokens) == (5, 7, 7)
    assert plain.per_byte == 1
    assert plain.per_character == 7 / 5
    # a and b twice, three bytes once: 2 x 2/7 log2(7/2) + 3 x 1/7 log2(7)
    assert plain.entropy == pytest.approx(4 / 7 * np.log2(3.5) + 3 / 7 * np.log2(7))
    assert entropy(np.array([4, 4, 0])) == 1.0
    ours = cost(own(tokenizer_folder), [row["content"] for row in clean_rows(50)])
    assert ours.bits_per_character == pytest.approx(ours.entropy * ours.tokens / ours.characters)


def test_the_sample_reaches_the_end_of_the_file_and_keeps_to_its_limit() -> None:
    texts = [f"{number:04}" * 10 for number in range(1000)]
    kept = sample(texts, 4000)
    assert sum(map(len, kept)) <= 4000
    assert kept[-1] > "0900"
    assert sample(texts[:5], 10**6) == texts[:5]
    assert sample(["春" * 100], 30) == ["春" * 30]


def test_a_token_that_is_always_swallowed_by_a_longer_one_counts_as_never_used(tmp_path: Path) -> None:
    """ "Magi" occurs in "Magikarp" only: the merges on the way there stay in the vocabulary."""
    rng = random.Random(1)
    words = ["the", "pond", "holds", "a", "fish", "today"]
    texts = [" ".join([*(rng.choice(words) for _ in range(8)), "Magikarp"]) for _ in range(200)]
    parameters = Tokenizer(vocabulary=330, character_coverage=1.0)
    lines = write_tokenizer(texts, parameters, 1, tmp_path / "tokenizer")
    counts = count_tokens(tmp_path / "tokenizer", lines)
    cutter = own(tmp_path / "tokenizer")
    unused = {cutter.spelled[token].decode() for token in learned_tokens(tmp_path / "tokenizer") if counts[token] == 0}
    assert any(piece.strip() and piece.strip() in "Magikarp" and len(piece.strip()) > 1 for piece in unused), unused
    assert not any("Magikarp" in piece for piece in unused)
    figures = train_tokenizer(texts, parameters, 1, tmp_path / "again")
    assert figures["unused_tokens"] == len(unused)


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.scripts = 0
        self.cuts: list[str] = []
        self._inside = self._small = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.scripts += tag == "script"
        self.addresses += [value for name, value in attrs if name in ("href", "src") and value]
        self.ids |= {values["id"] or ""} if "id" in values else set()
        self._small = tag == "sub"
        if tag == "p":
            self._inside = values.get("class") == "cut"
            if self._inside:
                self.cuts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "sub":
            self._small = False
        if tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside and not self._small:
            self.cuts[-1] += data


def test_the_page_stands_alone_is_the_same_every_time_and_shows_texts_unchanged(tmp_path: Path) -> None:
    rows = [row["content"] for row in clean_rows(60)]
    contents = [*rows, *(_RUSSIAN for _ in range(30)), "<script>alert(1)</script> & {{ x }} $y"]
    parameters = Tokenizer(vocabulary=420, character_coverage=1.0)
    lines = write_tokenizer(contents, parameters, 1, tmp_path / "tokenizer")
    counts = count_tokens(tmp_path / "tokenizer", lines)
    held_out = [rows[0], rows[1], _RUSSIAN, contents[-1]]
    languages = ["zh", "zh", "ru", "und"]
    figures = {}
    for name in ("one", "two"):
        figures = write_report(tmp_path / f"{name}.html", tmp_path / "tokenizer", counts, 5, held_out, languages, parameters)  # fmt: skip
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    html = (tmp_path / "one.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert page.scripts == 0
    assert "//" not in re.sub(r"/\*.*?\*/", "", html), "an address of another host"
    for address in page.addresses:
        assert address == "data:," or address[1:] in page.ids, address
    for text in (contents[-1], rows[0][:160], _RUSSIAN):
        assert sum(cut.rstrip("…") == text for cut in page.cuts) == 2, text  # ours and GPT-2's
    assert {"tokens_per_character_zh", "tokens_per_character_ru", "fertility_ru", "fertility_und"} < set(figures)
    assert figures["fertility_ru"] == pytest.approx(len(own(tmp_path / "tokenizer").cut(_RUSSIAN)) / 15)
    assert figures["gpt2_tokens_per_character"] > figures["bytes_per_character"] / 3
    assert all(isinstance(value, int | float) for value in figures.values())


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible(" a\n") == "␣a⏎"
    assert visible("\u200b\u3000") == "U+200BU+3000"
    assert visible("\u0301") == "\u25cc\u0301"
    assert visible("春Ж") == "春Ж"


def test_counts_are_those_of_the_encoded_sample(tokenizer_folder: Path) -> None:
    contents = [row["content"] for row in clean_rows(30)]
    lines = list(sample_lines(contents, 10**9, 1))
    counts = count_tokens(tokenizer_folder, lines)
    cutter = own(tokenizer_folder)
    assert counts.sum() == sum(len(ids) for ids in cutter.encode(lines))
    spelled = sum(int(count) * len(cutter.spelled[token].decode(errors="ignore")) for token, count in enumerate(counts))
    assert spelled == sum(map(len, lines))
