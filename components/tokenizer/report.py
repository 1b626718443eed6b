"""`reports/tokenizer.html`: what the tokenizer costs, what it holds, what of that is never used, and where it cuts."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.atomic import atomic_file
from components.corpus.language_facts import facts, words
from components.pages import render, style
from components.tokenizer.comparison import Cost, Cutter, Span, cost, gpt2, own, sample, spans, utf8
from components.vocabulary.spelling import read_record, whole

if TYPE_CHECKING:
    from components.configuration import Tokenizer

TEMPLATE = Path(__file__).with_name("report.html.jinja")
STYLE = Path(__file__).with_name("report.css")

_COMPARED_CHARACTERS = 1_000_000  # GPT-2's tokenizer reads about two million a second
_RARE = 5  # a token that was seen less often is hardly trained: its embedding stays near where it began
_SHOWN_TOKENS = 60
_SHOWN_CHARACTERS = 160
_LANGUAGES = 12
_TEXTS_SHOWN = 2
_LONGEST_BAR = 12  # longer tokens are counted together

# The same sentences for every corpus, so that two reports can be laid side by side.
SENTENCES = {
    "zh": "春天的早晨，我们在河边走了很久，谁也没有说话。2024年有366天。",
    "ru": "Весенним утром мы долго шли вдоль реки и молчали. В 2024 году 366 дней.",
    "en": "On a spring morning we walked along the river for a long time and said nothing. The year 2024 has 366 days.",
}
NUMBERS = ("7", "42", "365", "1812", "65536", "1234567", "3.14159", "2024-02-29", "1,000,000", "٣٦٥", "三百六十五")
DIGITS_TOLD = {
    "single": "Each digit is a token of its own.",
    "triples": "Numbers are cut into threes from the left; each of the 1,110 runs of one to three digits is a token.",
    "whole": "Numbers are cut as words are: frequent ones are one token.",
}


@dataclass(frozen=True)
class Token:
    """One token of the vocabulary as a reader sees it."""

    id: int
    text: str
    count: int


@dataclass(frozen=True)
class Example:
    """A text, cut by each tokenizer."""

    title: str
    language: str
    cut: Sequence[tuple[str, int, Sequence[Span]]]  # name, tokens, spans


@dataclass(frozen=True)
class LanguageRow:
    """Held-out texts of one language."""

    code: str
    name: str
    texts: int
    words: int
    spaceless: bool
    ours: Cost
    theirs: Cost
    in_bytes: float  # share of tokens that are bytes


@dataclass(frozen=True)
class Bar:
    """Tokens of one length: shares of the learned vocabulary and of what is used."""

    length: str
    vocabulary: float
    used: float


def write_report(
    path: Path,
    folder: Path,
    counts: np.ndarray[Any, Any],
    counted_characters: int,
    held_out: Sequence[str],
    languages: Sequence[str],
    parameters: Tokenizer,
) -> dict[str, float]:
    """Write the page and return its figures.

    counts: how often each token occurs in the `counted_characters` that were trained on, shape [vocabulary]. languages: of
    each held-out text, by code. The page depends on nothing but these and the tokenizer's files.
    """
    from components.tokenizer.train import learned_tokens

    cutters = (own(folder), gpt2(), utf8())
    texts = sample(held_out, _COMPARED_CHARACTERS)
    costs = [cost(cutter, texts) for cutter in cutters]
    rows = _languages(held_out, languages, cutters[0], cutters[1])
    tokens = _tokens(cutters[0], learned_tokens(folder), counts)
    unused = [token for token in tokens if token.count == 0]
    rare = [token for token in tokens if 0 < token.count < _RARE]
    longest = sorted(tokens, key=lambda token: (-len(token.text), token.id))
    values = {
        "style": style(STYLE),
        "parameters": parameters,
        "digits_told": DIGITS_TOLD[parameters.digits],
        "adopted": read_record(folder),
        "vocabulary": len(counts),
        "learned": len(tokens),
        "counted_characters": counted_characters,
        "compared": [(cutter.name, len(cutter.spelled), one) for cutter, one in zip(cutters, costs, strict=True)],
        "languages": rows,
        "bars": _bars(tokens),
        "curve": _curve(counts),
        "longest": [token for token in longest if token.text.strip()][:_SHOWN_TOKENS],
        "unused": unused[:_SHOWN_TOKENS],
        "unused_count": len(unused),
        "rare": sorted(rare, key=lambda token: (token.count, token.id))[:_SHOWN_TOKENS],
        "rare_count": len(rare),
        "rare_bound": _RARE,
        "frequent": sorted(tokens, key=lambda token: (-token.count, token.id))[:_SHOWN_TOKENS],
        "numbers": [_example(number, number, "und", cutters[:2]) for number in NUMBERS],
        "sentences": [_example(facts(code).name, text, code, cutters[:2]) for code, text in SENTENCES.items()],
        "examples": _examples(held_out, languages, cutters[:2]),
        "visible": visible,
    }
    with atomic_file(path) as temporary:
        temporary.write_text(render(TEMPLATE, values), encoding="utf-8")
    return _figures(costs, rows, tokens)


def _figures(costs: Sequence[Cost], rows: Sequence[LanguageRow], tokens: Sequence[Token]) -> dict[str, float]:
    """Flat names to numbers. Fertility is tokens a word."""
    figures = {
        "tokens_per_byte": costs[0].per_byte,
        "unigram_bits_per_token": costs[0].entropy,
        "unigram_bits_per_character": costs[0].bits_per_character,
        "gpt2_tokens_per_character": costs[1].per_character,
        "gpt2_tokens_per_byte": costs[1].per_byte,
        "gpt2_unigram_bits_per_character": costs[1].bits_per_character,
        "bytes_per_character": costs[2].per_character,
        "rare_tokens": sum(0 < token.count < _RARE for token in tokens),
        "longest_token_characters": max((len(token.text) for token in tokens), default=0),
    }
    for row in rows:
        figures[f"tokens_per_character_{row.code}"] = row.ours.per_character
        figures[f"fertility_{row.code}"] = row.ours.tokens / max(1, row.words)
    return figures


def _tokens(cutter: Cutter, learned: Sequence[int], counts: np.ndarray[Any, Any]) -> list[Token]:
    return [Token(token, cutter.spelled[token].decode(), int(counts[token])) for token in learned]


def _languages(held_out: Sequence[str], languages: Sequence[str], ours: Cutter, theirs: Cutter) -> list[LanguageRow]:
    """A row for each of the commonest languages, the one with most characters first."""
    texts: dict[str, list[str]] = {}
    for text, code in zip(held_out, languages, strict=True):
        texts.setdefault(code, []).append(text)
    ranked = sorted(texts, key=lambda code: (-sum(map(len, texts[code])), code))[:_LANGUAGES]
    rows = []
    for code in ranked:
        chosen = sample(texts[code], _COMPARED_CHARACTERS // len(ranked))
        fact = facts(code)
        cuts = [ours.cut(text) for text in chosen]
        in_bytes = sum(not whole(piece) for cut in cuts for piece in cut)
        rows.append(
            LanguageRow(
                code=code,
                name=fact.name if fact.name != code else "other" if code == "und" else code,
                texts=len(chosen),
                words=sum(len(words(text, fact)) for text in chosen),
                spaceless=fact.segmentation == "characters",
                ours=cost(ours, chosen),
                theirs=cost(theirs, chosen),
                in_bytes=in_bytes / max(1, sum(map(len, cuts))),
            )
        )
    return rows


def _bars(tokens: Sequence[Token]) -> list[Bar]:
    """Shares by length in characters."""
    held: dict[int, int] = {}
    used: dict[int, int] = {}
    for token in tokens:
        length = min(len(token.text), _LONGEST_BAR)
        held[length] = held.get(length, 0) + 1
        used[length] = used.get(length, 0) + token.count
    all_used = max(1, sum(used.values()))
    return [
        Bar(
            f"{length}{'+' if length == _LONGEST_BAR else ''}",
            held.get(length, 0) / len(tokens),
            used.get(length, 0) / all_used,
        )
        for length in range(1, max(held, default=1) + 1)
    ]


def _curve(counts: np.ndarray[Any, Any], width: int = 520, height: int = 220) -> Mapping[str, Any]:
    """Occurrences by rank, both logarithmic: points of a line in a box of `width` x `height`, and its grid."""
    ranked = np.sort(counts[counts > 0])[::-1]
    if not len(ranked):
        return {"points": "", "across": [], "up": [], "width": width, "height": height}
    right, top = math.log10(max(len(counts), 10)), math.log10(max(int(ranked[0]), 10))
    picked = np.unique(np.geomspace(1, len(ranked), 200).round().astype(int))
    points = [
        f"{math.log10(rank) / right * width:.1f},{height - math.log10(ranked[rank - 1]) / top * height:.1f}"
        for rank in picked.tolist()
    ]
    return {
        "points": " ".join(points),
        "across": [(f"{power / right * width:.1f}", f"{10**power:,}") for power in range(math.floor(right) + 1)],
        "up": [(f"{height - power / top * height:.1f}", f"{10**power:,}") for power in range(math.floor(top) + 1)],
        "width": width,
        "height": height,
    }


def _example(title: str, text: str, language: str, cutters: Sequence[Cutter]) -> Example:
    cut = [(cutter.name, cutter.cut(text)) for cutter in cutters]
    return Example(title, language, [(name, len(pieces), spans(pieces)) for name, pieces in cut])


def _examples(held_out: Sequence[str], languages: Sequence[str], cutters: Sequence[Cutter]) -> list[Example]:
    """Beginnings of held-out texts, a few of each of the three commonest languages."""
    found: dict[str, list[str]] = {}
    for text, code in zip(held_out, languages, strict=True):
        found.setdefault(code, []).append(text)
    ranked = sorted(found, key=lambda code: (-len(found[code]), code))[:3]
    examples = []
    for code in ranked:
        # From the middle of the file: its beginning is often a preface.
        start = max(0, min(len(found[code]) // 2, len(found[code]) - _TEXTS_SHOWN))
        for text in found[code][start : start + _TEXTS_SHOWN]:
            shown = text[:_SHOWN_CHARACTERS] + ("…" if len(text) > _SHOWN_CHARACTERS else "")
            examples.append(_example(f"Held out, {facts(code).name}", shown, code, cutters))
    return examples


def visible(text: str) -> str:
    """A token with what cannot be seen made visible: spaces, line ends and invisible characters."""
    shown = []
    for character in text:
        if character == " ":
            shown.append("␣")
        elif character == "\n":
            shown.append("⏎")
        elif unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zs", "Zl", "Zp"):
            shown.append(f"U+{ord(character):04X}")
        elif unicodedata.combining(character):
            shown.append(f"\u25cc{character}")
        else:
            shown.append(character)
    return "".join(shown)
