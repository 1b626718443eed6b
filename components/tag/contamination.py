"""Which documents of the corpus hold a piece of an evaluation set: a model that was trained on them knows the answers.

Method: shared n-grams, 13 words long as in Brown et al. 2020 (GPT-3, appendix C), 20 letters where a script puts no
blanks between words (`components.corpus.language_facts.words` counts such a letter as a word). In a passage of both, twenty
letters weigh as much as thirteen words. Letter case, punctuation, blanks and compatibility forms do not count. An
evaluation text that is shorter than one n-gram is looked for as a whole, if it has at least 8 words or 12 letters; a
shorter one says nothing and is counted as such.

The index holds a 64-bit hash for each n-gram, sorted, in files that workers map into memory. A hash that is found is
never believed: the n-gram itself must stand in the evaluation text.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.atomic import atomic_folder
from components.corpus.language_facts import facts, is_spaceless, words
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]
    Hashes = NDArray[np.uint64]

WORDS, LETTERS = 13, 20  # length of an n-gram, in either kind of script
_FEWEST_WORDS, _FEWEST_LETTERS = 8, 12  # of a shorter text that is looked for as a whole
_VERSION = 1  # of the files
_BASE = 0x9E3779B97F4A7C15  # of the rolling hash, odd: it has an inverse modulo 2**64
_INVERSE = pow(_BASE, -1, 2**64)
_REMEMBERED = 500_000  # words whose hashes are kept at hand
_PIECE, _OVERLAP = 1_000_000, 5_000  # characters that are looked at at once, and that two pieces of a text share

Figures = dict[str, float]


@dataclass
class EvaluationSet:
    """One source of role evaluation in the listing for people.

    documents: it has; too_short: of these, that say nothing; ngrams: looked for; contaminated: documents of the corpus that
    share one; found: its documents that were met; examples: a few of (corpus document's id, "<document id>: <n-gram>").
    """

    source: str
    documents: int = 0
    too_short: int = 0
    ngrams: int = 0
    contaminated: int = 0
    found: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


def build(evaluation: Path, ngram: int | None, folder: Path, normalise: Callable[[str], str] | None = None) -> Figures:
    """Index the evaluation documents (raw schema) of `evaluation` into `folder`, atomically; returns counts.

    ngram: length in words, and in letters of scripts without blanks; None: 13 and 20. normalise: what is done to the texts of
    the corpus before they are looked up (Chinese script, removed patterns), so that it is done to these too. Memory: 20 bytes
    a n-gram while it sorts.
    """
    from components.corpus.documents import iterate, raw_schema

    lengths = _Lengths(ngram or WORDS, ngram or LETTERS)
    sets: dict[str, EvaluationSet] = {}
    documents: list[tuple[str, str]] = []
    hashes: list[Hashes] = []
    owners: list[NDArray[np.uint32]] = []
    whole: set[int] = set()  # lengths in tokens of texts that are looked for as a whole
    tokenizer = _Tokenizer()
    with atomic_folder(folder) as temporary:
        starts = [0]
        with (temporary / "texts.txt").open("wb") as texts:
            for row in iterate(evaluation, raw_schema(), ["id", "text", "provenance"]):
                source = row["provenance"]["source"]
                counted = sets.setdefault(source, EvaluationSet(source))
                counted.documents += 1
                text = row["text"] or ""
                tokens = tokenizer.tokens(normalise(text) if normalise else text)
                found, as_a_whole = _of_evaluation(tokenizer.hashes(tokens), lengths)
                if not len(found):
                    counted.too_short += 1
                    continue
                if as_a_whole:
                    whole.add(len(tokens))
                counted.ngrams += len(found)
                hashes.append(found)
                owners.append(np.full(len(found), len(documents), dtype=np.uint32))
                documents.append((source, row["id"]))
                starts.append(starts[-1] + texts.write(_joined(tokens).encode("utf-8", "surrogatepass")))
        every = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        del hashes
        order = np.argsort(every, kind="stable")  # equal n-grams: the first document that has one stands for all
        every = every[order]
        first = np.ones(len(every), dtype=bool)
        first[1:] = every[1:] != every[:-1]
        np.save(temporary / "hashes.npy", every[first])
        np.save(temporary / "owners.npy", (np.concatenate(owners) if owners else np.zeros(0, np.uint32))[order][first])
        np.save(temporary / "starts.npy", np.array(starts, dtype=np.int64))
        told = {
            "version": _VERSION,
            "words": lengths.words,
            "letters": lengths.letters,
            "whole": sorted(whole),
            "documents": documents,
            "sets": [vars(counted) for _, counted in sorted(sets.items())],
        }
        (temporary / "index.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")
    return {
        "evaluation_sets": len(sets),
        "evaluation_documents": sum(counted.documents for counted in sets.values()),
        "evaluation_documents_too_short": sum(counted.too_short for counted in sets.values()),
        "evaluation_ngrams": int(first.sum()),
    }


class Index:
    """What `build` wrote, mapped into memory."""

    def __init__(self, folder: Path, told: dict[str, Any]) -> None:
        self._lengths = _Lengths(told["words"], told["letters"])
        self._whole: list[int] = told["whole"]
        self._documents: list[tuple[str, str]] = [(source, name) for source, name in told["documents"]]
        self._hashes: Hashes = np.load(folder / "hashes.npy", mmap_mode="r")
        self._owners: NDArray[np.uint32] = np.load(folder / "owners.npy", mmap_mode="r")
        self._starts: Longs = np.load(folder / "starts.npy")
        size = (folder / "texts.txt").stat().st_size
        self._texts = np.memmap(folder / "texts.txt", dtype=np.uint8, mode="r") if size else np.zeros(0, np.uint8)
        self._tokenizer = _Tokenizer()

    @classmethod
    def open(cls, folder: Path) -> Index:
        """InkwellError when the folder holds no index, or one of another version."""
        return cls(folder, _read(folder))

    def hit(self, text: str, language: str = "und") -> str | None:
        """ "<source>/<document id>: <shared n-gram>" for the first passage of `text` that an evaluation text has too, else None.

        What a passage's length is counted in follows from its script, so that an English question in a Chinese
        document is found as well; `language` is not asked.
        """
        del language
        if not len(self._hashes):
            return None
        return next(filter(None, map(self._hit, _pieces(text))), None)

    def _hit(self, text: str) -> str | None:
        tokens = self._tokenizer.tokens(text)
        starts, ends, windows = _windows(self._tokenizer.hashes(tokens), self._lengths, self._whole)
        if not len(windows):
            return None
        places = np.searchsorted(self._hashes, windows)
        places[places == len(self._hashes)] = 0
        found = np.flatnonzero(self._hashes[places] == windows)
        for index in found[np.argsort(starts[found], kind="stable")].tolist():
            owner = int(self._owners[places[index]])
            passage = tokens[starts[index] : ends[index]]
            evaluated = self._texts[self._starts[owner] : self._starts[owner + 1]].tobytes()
            if _joined(passage).encode("utf-8", "surrogatepass") in evaluated:
                source, name = self._documents[owner]
                return f"{source}/{name}: {_readable(passage)}"
        return None


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces that bound the memory of looking it up; they end between words, where there are blanks at all."""
    start = 0
    while len(text) - start > _PIECE:
        blank = text.rfind(" ", start + _PIECE - _OVERLAP // 5, start + _PIECE)
        end = blank if blank > 0 else start + _PIECE
        yield text[start:end]
        blank = text.find(" ", end - _OVERLAP, end - _OVERLAP // 2)
        start = blank if blank > 0 else end - _OVERLAP
    yield text[start:] if start else text


def listing(folder: Path, contaminated: Iterable[tuple[str, str | None]], examples: int = 5) -> list[EvaluationSet]:
    """For each evaluation set, what was met of it in the corpus; `contaminated` are (document id, `contaminated_by`).

    Sets that nothing was met of are listed too.
    """
    told = _read(folder)
    sets = {entry["source"]: EvaluationSet(**{**entry, "examples": []}) for entry in told["sets"]}
    met: dict[str, set[str]] = {source: set() for source in sets}
    longest_first = sorted(sets, key=len, reverse=True)
    for name, by in contaminated:
        if by is None:
            continue
        source = next((source for source in longest_first if by.startswith(f"{source}/")), None)
        if source is None:
            raise InkwellError(
                f"document {name} is contaminated by {by!r}, which {folder} does not know: run tag again."
            )
        entry = sets[source]
        entry.contaminated += 1
        rest = by[len(source) + 1 :]
        met[source].add(rest.partition(": ")[0])
        if len(entry.examples) < examples:
            entry.examples.append((name, rest))
    for source, names in met.items():
        sets[source].found = len(names)
    return list(sets.values())


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "index.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InkwellError(f"{folder} holds no index of evaluation sets ({error}): run tag again.") from error
    if not isinstance(told, dict) or told.get("version") != _VERSION:
        raise InkwellError(f"{path} was written by another version: delete {folder} and run tag again.")
    return told


@dataclass(frozen=True)
class _Lengths:
    words: int
    letters: int


class _Tokenizer:
    """Texts as words, and words as hashes: the lowest bit tells letters of scripts without blanks from words."""

    def __init__(self) -> None:
        self._facts = facts("und")
        self._known = _Known()

    def tokens(self, text: str) -> list[str]:
        plain = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("ʼ", "'")
        return words(plain, self._facts)

    def hashes(self, tokens: list[str]) -> Hashes:
        if len(self._known) > _REMEMBERED:
            self._known.clear()
        return np.fromiter(map(self._known.__getitem__, tokens), np.uint64, len(tokens))


class _Known(dict[str, int]):
    def __missing__(self, token: str) -> int:
        import xxhash

        value = xxhash.xxh3_64_intdigest(token.encode("utf-8", "surrogatepass"))
        value = self[token] = value | 1 if is_spaceless(token[0]) else value & ~1
        return value


def _ends(hashes: Hashes, lengths: _Lengths) -> tuple[Longs, Longs]:
    """Start and end of every n-gram. A word weighs `letters` and a letter `words`: an n-gram is as long as it takes to weigh
    `words * letters`, so that of words alone it has `words`, of letters alone `letters`, and of both something between.
    """
    weights = np.where(hashes & np.uint64(1), lengths.words, lengths.letters)
    reached = np.cumsum(weights)
    ends = np.searchsorted(reached, reached - weights + lengths.words * lengths.letters) + 1
    starts = np.flatnonzero(ends <= len(hashes))
    return starts, ends[starts]


def _of_evaluation(hashes: Hashes, lengths: _Lengths) -> tuple[Hashes, bool]:
    """Hashes of the distinct n-grams of an evaluation text, or of all of it where it is shorter than one (True)."""
    starts, ends = _ends(hashes, lengths)
    if len(starts):
        return np.unique(_Rolling(hashes).spans(starts, ends)), False
    letters = int((hashes & np.uint64(1)).sum())
    enough_words, enough_letters = min(_FEWEST_WORDS, lengths.words), min(_FEWEST_LETTERS, lengths.letters)
    if (len(hashes) - letters) * enough_letters + letters * enough_words < enough_words * enough_letters:
        return np.zeros(0, np.uint64), False
    return _Rolling(hashes).spans(np.array([0]), np.array([len(hashes)])), True


def _windows(hashes: Hashes, lengths: _Lengths, whole: list[int]) -> tuple[Longs, Longs, Hashes]:
    """Everything in a document that could be an n-gram or a short text of the index: start, end and hash of each."""
    starts, ends = _ends(hashes, lengths)
    lower, upper = [starts], [ends]
    places = np.arange(len(hashes))
    for length in whole:
        if length > len(hashes):
            break
        lower.append(places[: len(hashes) - length + 1])
        upper.append(places[: len(hashes) - length + 1] + length)
    starts, ends = np.concatenate(lower), np.concatenate(upper)
    return starts, ends, _Rolling(hashes).spans(starts, ends) if len(starts) else np.zeros(0, np.uint64)


class _Rolling:
    """Hash of any span of tokens out of sums of token * base**place modulo 2**64 (Rabin and Karp)."""

    _powers: Hashes = np.ones(1, np.uint64)
    _inverses: Hashes = np.ones(1, np.uint64)

    def __init__(self, hashes: Hashes) -> None:
        self._grow(len(hashes))
        self._sums = np.zeros(len(hashes) + 1, np.uint64)
        np.cumsum(hashes * self._powers[: len(hashes)], out=self._sums[1:])

    def spans(self, starts: Longs, ends: Longs) -> Hashes:
        return np.asarray((self._sums[ends] - self._sums[starts]) * self._inverses[starts], dtype=np.uint64)

    @classmethod
    def _grow(cls, size: int) -> None:
        while len(cls._powers) < size:
            cls._powers = _continued(cls._powers, _BASE)
            cls._inverses = _continued(cls._inverses, _INVERSE)


def _continued(powers: Hashes, base: int) -> Hashes:
    """The powers of `base` modulo 2**64 that are there, and as many more."""
    return np.concatenate((powers, powers * np.uint64(int(powers[-1]) * base % 2**64)))


def _joined(tokens: list[str]) -> str:
    """Tokens with a blank on either side of each: a span of them stands in another exactly when its string does."""
    return f" {' '.join(tokens)} "


def _readable(tokens: list[str]) -> str:
    return "".join(_spaced(tokens)).strip()


def _spaced(tokens: list[str]) -> Iterator[str]:
    before = False
    for token in tokens:
        letter = is_spaceless(token[0])
        yield token if letter and before else f" {token}"
        before = letter
