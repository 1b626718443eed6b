"""Passages that an earlier document holds too, word for word: of a given length or longer, exactly, at any size of corpus.

Every stretch of `length` characters inside a document is hashed (Karp and Rabin 1987; the hash rolls, so the length costs
nothing) and the stretches with one hash are brought together, in files that fit into memory by their first bits. What an
earlier document has too is compared character by character, and overlapping stretches are joined. A suffix array finds the
same (Lee et al. 2021, "Deduplicating training data makes language models better"), and a test holds the two together; but
it must be in memory as a whole, and takes longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.shingles import firsts
from components.progress import bar
from components.tag.duplicates.codes import Corpus, let_go, read

if TYPE_CHECKING:
    import pyarrow as pa

    from components.corpus.shingles import Codes, Floats, Hashes, Ints

_BLOCK = 2**22  # characters that are hashed at once
_TOGETHER = 2**23  # stretches that are sorted at once: about 300 MiB
_BASE = 0xD1342543DE82EF95  # odd: it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 2**64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Spans:
    """Repeated passages of N documents: those of document i are `starts[offsets[i]:offsets[i + 1]]` to `ends[...]`.

    Positions are characters of its text; passages neither overlap nor touch. `shares`: [N] share of each text in them, 0 for an
    empty one. figures: repeated_passages, documents_with_repeated_passages, repeated_characters.
    """

    offsets: Ints
    starts: Ints
    ends: Ints
    shares: Floats
    figures: dict[str, float]

    def between(self, start: int, end: int) -> pa.ListArray:
        """The passages of documents start to end - 1 as the column `repeated_spans` of `tagged_schema`."""
        import pyarrow as pa

        some = slice(int(self.offsets[start]), int(self.offsets[end]))
        places = [pa.array(values[some], pa.int32()) for values in (self.starts, self.ends)]
        offsets = pa.array(self.offsets[start : end + 1] - self.offsets[start], pa.int32())
        return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(places, ["start", "end"]))


def repeated_spans(parts: Sequence[Path], length: int, work: Path, workers: int | None = None) -> Spans:
    """Passages of `length` characters or more (of the column `text`) that a document of an earlier row holds too.

    Files go to `work` and are removed. Memory does not grow with the text, but for the passages that are found.
    """
    work.mkdir(parents=True, exist_ok=True)
    corpus = read(parts, "texts", work, workers)
    total = int(corpus.offsets[-1])
    by_hash = [work / f"stretches.{number:04}" for number in range(1 + total // _TOGETHER)]
    by_place = [work / f"repeated.{number:04}" for number in range(1 + total // _TOGETHER)]
    for file in (*by_hash, *by_place):
        file.write_bytes(b"")
    with bar("repeated passages", 2 * total) as progress:
        for hashes, places in _stretches(corpus, length):
            number = (hashes >> 32) % len(by_hash)
            _distribute(by_hash, number, hashes, places)
            progress.advance(len(hashes))
        for file in by_hash:
            hashes, places = _taken(file)
            done = len(hashes)
            places, earlier = _with_earlier(hashes, places, corpus.offsets)
            _distribute(by_place, places // _TOGETHER, places, earlier)
            progress.advance(done)
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for file in by_place:
        places, earlier = _taken(file)
        order = np.argsort(places)
        places = _same(corpus.codes, places[order], earlier[order], length)
        let_go(corpus.codes)
        begin, end = _joined(places, places + length, corpus.offsets)
        starts.append(begin)
        ends.append(end)
    begin, end = _joined(np.concatenate(starts), np.concatenate(ends), corpus.offsets)
    (work / "texts.codes").unlink()
    return _by_document(begin, end, corpus.offsets)


def _stretches(corpus: Corpus, length: int) -> Iterator[tuple[Ints, Ints]]:
    """Hashes of all stretches of `length` characters inside documents, and where each begins; about _BLOCK at a time."""
    total = int(corpus.offsets[-1])
    for start in range(0, total, _BLOCK):
        codes = np.asarray(corpus.codes[start : start + _BLOCK + length - 1])
        hashes = rolling_hashes(codes, length)
        places = np.arange(start, start + len(hashes))
        # An end of the text in which the stretch begins that lies within the stretch: it would cross into the next document.
        first, last = np.searchsorted(corpus.offsets, [start, start + len(codes)], side="right")
        inside = np.ones(len(hashes), dtype=bool)
        for border in corpus.offsets[first : last + 1].tolist():
            inside[max(0, border - length + 1 - start) : max(0, border - start)] = False
        let_go(corpus.codes)
        yield hashes[inside].view(np.int64), places[inside]


def rolling_hashes(codes: Codes, length: int) -> Hashes:
    """A hash of 64 bits of each stretch of `length` codes: [max(0, n - length + 1)]."""
    count = max(0, len(codes) - length + 1)
    powers = _powers(_BASE, len(codes))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    # A code times a large odd number, folded: small differences between codes must not cancel each other.
    spread = codes.astype(np.uint64) * _MIX
    spread ^= spread >> np.uint64(29)
    np.cumsum(spread * powers, out=sums[1:])
    hashes = sums[length:] - sums[: len(sums) - length] if count else sums[:0]
    hashes *= _powers(_INVERSE, count)
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    return hashes


def _powers(base: int, count: int) -> Hashes:
    """base^0, base^1, ... modulo 2^64."""
    powers = np.full(count, base, dtype=np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _distribute(files: Sequence[Path], number: Ints, one: Ints, other: Ints) -> None:
    """Append the pairs (one, other), interleaved, each to the file of its number."""
    number = number.astype(np.uint16)  # few files; and numbers as small as that are sorted by their digits
    order = np.argsort(number, kind="stable")
    borders = np.searchsorted(number[order], np.arange(len(files) + 1))
    both = np.stack([one[order], other[order]], axis=1)
    for file, (start, end) in zip(files, itertools.pairwise(borders.tolist()), strict=True):
        if start < end:
            with file.open("ab") as handle:
                both[start:end].tofile(handle)


def _taken(file: Path) -> tuple[Ints, Ints]:
    """The pairs of a file, which is removed."""
    both = np.fromfile(file, dtype=np.int64).reshape(-1, 2)
    file.unlink()
    return both[:, 0].copy(), both[:, 1].copy()


def _with_earlier(hashes: Ints, places: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """Places whose hash an earlier document has too, and the first place with that hash."""
    order = np.argsort(hashes)
    hashes, places = hashes[order], places[order]
    fresh = firsts(hashes)
    if not len(hashes):
        return places, places
    bucket = np.cumsum(fresh) - 1
    earliest = np.minimum.reduceat(places, np.flatnonzero(fresh))[bucket]
    other = np.flatnonzero(earliest != places)
    places, earliest = places[other], earliest[other]
    later = np.searchsorted(offsets, places, side="right") > np.searchsorted(offsets, earliest, side="right")
    return places[later], earliest[later]


def _same(codes: Codes, places: Ints, earlier: Ints, length: int) -> Ints:
    """Those of the (rising) places at which really the same characters stand as at the earlier one.

    Neighbours that match neighbours are compared together.
    """
    breaks = np.flatnonzero((np.diff(places) != 1) | (np.diff(earlier) != 1)) + 1
    borders = [0, *breaks.tolist(), len(places)] if len(places) else []
    keep = np.ones(len(places), dtype=bool)
    for first, end in itertools.pairwise(borders):
        place, other = int(places[first]), int(earlier[first])
        size = end - first + length - 1
        equal = codes[place : place + size] == codes[other : other + size]
        if not equal.all():
            wrong = np.concatenate([[0], np.cumsum(~equal)])
            keep[first:end] = wrong[length:] == wrong[:-length]
    return places[keep]


def _joined(starts: Ints, ends: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """Rising stretches with those joined that overlap or touch within one document."""
    if not len(starts):
        return starts, ends
    document = np.searchsorted(offsets, starts, side="right")
    fresh = np.ones(len(starts), dtype=bool)
    fresh[1:] = (starts[1:] > np.maximum.accumulate(ends)[:-1]) | (document[1:] != document[:-1])
    first = np.flatnonzero(fresh)
    return starts[first], np.maximum.reduceat(ends, first)


def _by_document(starts: Ints, ends: Ints, offsets: Ints) -> Spans:
    count = len(offsets) - 1
    document = np.searchsorted(offsets, starts, side="right") - 1
    lengths = np.diff(offsets)
    repeated = np.bincount(document, weights=ends - starts, minlength=count)[:count]
    shares = np.divide(repeated, lengths, out=np.zeros(count), where=lengths > 0)
    placed = np.concatenate([[0], np.cumsum(np.bincount(document, minlength=count)[:count])]).astype(np.int64)
    figures: dict[str, float] = {
        "repeated_passages": len(starts),
        "documents_with_repeated_passages": int(np.count_nonzero(repeated)),
        "repeated_characters": int(repeated.sum()),
    }
    return Spans(placed, starts - offsets[document], ends - offsets[document], shares, figures)
