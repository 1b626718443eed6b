"""The vocabulary, and a held-out document cut into tokens."""

from __future__ import annotations

from components.figures import figure
from components.report import pictures
from components.report.evidence import Evidence, Row
from components.report.sections.excerpts import held_out
from components.report.segmentation import Segmentation
from components.vocabulary.spelling import read_record

_EXAMPLE_CHARACTERS = (20, 160)  # length of the text that is cut into tokens
_LONG_TOKEN = 10  # characters from which tokens are counted together


def tokens(evidence: Evidence) -> Row | None:
    """The vocabulary, and a held-out document cut into tokens."""
    if evidence.tokenizer is None:
        return None
    opened = Segmentation(evidence.tokenizer)
    vocabulary = opened.vocabulary()
    origin = "models/tokenizer/tokenizer.json"
    text = _example(evidence)
    cuts = opened.cut(text) if text else []
    by_length = [(str(length), amount) for length, amount in vocabulary.by_length if length < _LONG_TOKEN]
    if more := sum(amount for length, amount in vocabulary.by_length if length >= _LONG_TOKEN):
        by_length.append((f"{_LONG_TOKEN}+", more))
    return {
        "adopted": read_record(evidence.tokenizer),
        "size": figure(vocabulary.size, "count", origin),
        "bytes": figure(vocabulary.bytes, "count", f"{origin}: tokens of bytes that are no whole character"),
        "marks": figure(vocabulary.marks, "count", f"{origin}: added tokens"),
        "longest": vocabulary.longest,
        "lengths": pictures.picture(
            "token-lengths",
            "Tokens by the number of characters they spell",
            pictures.columns([label for label, _ in by_length], {"tokens": [n for _, n in by_length]}, "characters a token", "tokens"),
        ) if by_length else None,
        "cuts": cuts,
        "cut_tokens": figure(sum(cut.tokens for cut in cuts), "count", f"{origin} on the text shown"),
        "cut_characters": figure(len(text), "count", "characters of the text shown"),
    }  # fmt: skip


def _example(evidence: Evidence) -> str:
    """The first held-out document of a length that can be shown; else the beginning of the first one."""
    low, high = _EXAMPLE_CHARACTERS
    contents = [str(row["content"]) for row in held_out(evidence, ["content"])]
    return next((text for text in contents if low <= len(text) <= high), contents[0][:high] if contents else "")
