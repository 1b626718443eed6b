"""The tokenizer as a person sees it: which tokens it has and where it cuts a text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from components.vocabulary.spelling import Vocabulary as Tokens
from components.vocabulary.spelling import whole


@dataclass(frozen=True)
class Cut:
    """One token of a cut text: what it spells; `tokens` is above 1 for a character spelled in several bytes."""

    text: str
    tokens: int = 1


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by the number of characters that they spell, beside bytes and marks; and the longest ones."""

    size: int
    bytes: int
    marks: int
    by_length: list[tuple[int, int]]
    longest: list[str]


class Segmentation:
    """A tokenizer folder, opened."""

    def __init__(self, folder: Path) -> None:
        self._tokens = Tokens(folder)

    def vocabulary(self, longest: int = 40) -> Vocabulary:
        """What the tokenizer holds; the longest tokens first, those that were merged earlier before later ones."""
        tokens = self._tokens
        words = {token: tokens.spelled[token].decode() for token in tokens.of_kind("text")}
        ranked = sorted((t for t in words if words[t].strip()), key=lambda t: (-len(words[t]), t))
        return Vocabulary(
            size=tokens.size,
            bytes=len(tokens.of_kind("part")),
            # The tokenizer was given symbols; it did not find them in the text.
            marks=len(tokens.of_kind("special", "symbol")),
            by_length=sorted(Counter(len(text) for text in words.values()).items()),
            longest=[words[t] for t in ranked[:longest]],
        )

    def cut(self, text: str) -> list[Cut]:
        """`text` in tokens; those that end inside a character are put together until it is whole."""
        cuts: list[Cut] = []
        waiting, count = b"", 0
        for token in self._tokens.encode([text])[0]:
            waiting, count = waiting + self._tokens.spelled[token], count + 1
            if whole(waiting):
                cuts.append(Cut(waiting.decode(), count))
                waiting, count = b"", 0
        if count:
            cuts.append(Cut(waiting.decode(errors="replace"), count))
        return cuts
