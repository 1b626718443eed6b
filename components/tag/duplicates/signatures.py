"""MinHash signatures of many keys, folded into one hash a band, on disk.

A signature has `bands * rows` MinHashes (Broder 1997; computed by rensa from the n-grams' hashes). Two documents fall into
one bucket of a band where all its rows agree, which for Jaccard similarity s has the chance s^rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.shingles import distinct, firsts, gram_hashes, ragged, similarities, starts_of
from components.progress import bar
from components.tag.duplicates.codes import Corpus, gather, let_go, mapped_array, runs, workers_for
from components.tag.executors import mapped

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.configuration.tag import Duplicates
    from components.corpus.shingles import Codes, Floats, Hashes, Ints

_SHORTEST_SHINGLE, _LONGEST_FOR_SPEED, _LONGEST_SHINGLE = 3, 6, 12
_SAMPLED, _FEWEST = 4_000, 24  # documents
_LOOKED_AT = 50_000  # characters of one document
_PAIRS = 50_000
_FEWEST_STRANGE = 0.1  # share of the pairs
_STRANGERS = 2  # that a document is compared with in vain
_SIGNED_AT_ONCE = 1_000_000  # characters, and
_SIGNED_DOCUMENTS = 4_000  # documents: these bound the memory of a worker
_PIECE = 1_000_000  # characters of a document that are hashed at once
_FOLD = np.uint64(0x9E3779B97F4A7C15)


def shingle_length(corpus: Corpus, documents: Ints, settings: Duplicates, seed: int) -> int:
    """The shortest n-gram by which unrelated documents of this corpus look unrelated; what is longer misses edited copies.

    Three Chinese characters say much, three Latin letters little: two English texts of 30,000 letters share more than
    half of their trigrams. Instead of a table of languages we look at random pairs of a sample of `documents`, but for those
    that share more than chance would have it: a good part of their n-grams of _LONGEST_SHINGLE characters. Of pairs out of
    the longest quarter, three in four must share at most two fifths of what makes a duplicate (not half of them: where
    two languages are mixed, half of the pairs share nothing). And, as far as n-grams of _LONGEST_FOR_SPEED go, a document may
    meet only a few strangers in the buckets of the whole corpus, or comparing them would take longer than all the rest.
    """
    rng = np.random.default_rng(seed)
    sample = rng.permutation(rng.choice(documents, min(_SAMPLED, len(documents)), replace=False, shuffle=False))
    if len(sample) < 2:
        return _SHORTEST_SHINGLE
    lengths = corpus.offsets[sample + 1] - corpus.offsets[sample]
    longest = np.sort(np.argsort(-lengths, kind="stable")[: max(2, len(sample) // 4)])
    of_longest, of_all = _Strangers(corpus, sample[longest], settings, rng), _Strangers(corpus, sample, settings, rng)
    for length in range(_SHORTEST_SHINGLE, _LONGEST_SHINGLE):
        shared = of_longest.similarities(length)
        if len(shared) and np.quantile(shared, 0.75) > 0.4 * settings.floor:
            continue
        chances = np.minimum(1, settings.bands * of_all.similarities(length) ** settings.rows)
        met = len(documents) * float(np.mean(chances)) if len(chances) else 0.0
        if met <= _STRANGERS or length >= _LONGEST_FOR_SPEED:
            return length
    return _LONGEST_SHINGLE


class _Strangers:
    """Random pairs of the first of some documents, without those that share long n-grams."""

    def __init__(self, corpus: Corpus, documents: Ints, settings: Duplicates, rng: np.random.Generator) -> None:
        starts = corpus.offsets[documents]
        ends = np.minimum(corpus.offsets[documents + 1], starts + _LOOKED_AT)
        enough = max(_FEWEST, int(np.searchsorted(np.cumsum(ends - starts), 10 * _LOOKED_AT)))
        self._keys = gather(corpus.codes, starts[:enough], ends[:enough])
        count = len(self._keys[1]) - 1
        # Comparing takes as long as the documents are.
        pairs = min(_PAIRS, 300 + _PAIRS * 100 * count // max(1, len(self._keys[0])))
        one = rng.integers(0, count, pairs)
        self._pairs = one, (one + rng.integers(1, count, pairs)) % count
        strange = self.similarities(_LONGEST_SHINGLE) < settings.floor / 10
        if strange.mean() < _FEWEST_STRANGE:  # rather the least alike of many copies than strangers
            strange[:] = False
        self._pairs = self._pairs[0][strange], self._pairs[1][strange]

    def similarities(self, length: int) -> Floats:
        """By n-grams of that length."""
        sets = distinct(*gram_hashes(*self._keys, length))
        return similarities(sets, sets, self._pairs)


def sign(
    corpus: Corpus, documents: Ints, length: int, settings: Duplicates, seed: int, work: Path, workers: int | None
) -> NDArray[np.uint32]:
    """[bands, documents] hashes of the bands of some documents, mapped from the file `work/bands`."""
    path = work / "bands"
    shape = (settings.bands, len(documents))
    if not len(documents):
        return np.zeros(shape, dtype=np.uint32)
    bands = np.memmap(path, dtype=np.uint32, mode="w+", shape=shape)
    make = partial(_signer, corpus.file, len(corpus.codes), work, shape, length, settings, seed % 2**32)
    size = 4 * int(np.sum(corpus.offsets[documents + 1] - corpus.offsets[documents]))
    with bar("signatures", len(documents)) as progress:
        for table in mapped(make, _tasks(corpus, documents), "local", workers_for(size, workers)):
            progress.advance(int(table["count"][0].as_py()))
    return bands


def _tasks(corpus: Corpus, documents: Ints) -> Iterator[pa.Table]:
    """Documents that are signed together: where the codes of each begin and end, and the position of the first."""
    import pyarrow as pa

    starts, ends = corpus.offsets[documents], corpus.offsets[documents + 1]
    for some in runs(ends - starts, _SIGNED_AT_ONCE, _SIGNED_DOCUMENTS):
        yield pa.table({"position": np.arange(some.start, some.stop), "start": starts[some], "end": ends[some]})


def _signer(
    file: Path, size: int, work: Path, shape: tuple[int, int], length: int, settings: Duplicates, seed: int
) -> Callable[[pa.Table], pa.Table]:
    """The function of a worker, which writes its columns of `bands`."""
    import pyarrow as pa
    import rensa

    codes = mapped_array(file, size)
    bands = np.memmap(work / "bands", dtype=np.uint32, mode="r+", shape=shape)
    signed = rensa.RMinHash.digest_matrix_from_flat_token_hashes

    def work_on(table: pa.Table) -> pa.Table:
        starts, ends, first = pieces(table["start"].to_numpy(), table["end"].to_numpy(), length)
        rows = []
        for some in runs(ends - starts, _SIGNED_AT_ONCE, _SIGNED_DOCUMENTS):
            hashes, grams = gram_hashes(*gather(codes, starts[some], ends[some]), length)
            rows += signed(hashes, grams, settings.bands * settings.rows, seed).to_rows()
        signatures = np.minimum.reduceat(np.array(rows, dtype=np.uint32), first)
        position = int(table["position"][0].as_py())
        bands[:, position : position + len(signatures)] = _folded(signatures, settings).T
        let_go(codes)
        let_go(bands)
        return pa.table({"count": [len(signatures)]})

    return work_on


def pieces(starts: Ints, ends: Ints, length: int) -> tuple[Ints, Ints, Ints]:
    """Stretches of codes in pieces of bounded length that hold each n-gram once; `first`: number of each one's first piece."""
    counts = np.maximum(1, -(-(ends - starts - length + 1) // _PIECE))
    first = starts_of(counts)[:-1]
    begins = np.repeat(starts, counts) + _PIECE * ragged(np.zeros_like(counts), counts)
    return begins, np.minimum(begins + _PIECE + length - 1, np.repeat(ends, counts)), first


def sets_of_stretches(codes: Codes, starts: Ints, ends: Ints, length: int) -> tuple[Hashes, Ints]:
    """The sets of n-grams of stretches of codes; what is hashed at once is bounded, so that a huge document needs little more
    memory than its distinct n-grams.
    """
    begins, stops, first = pieces(starts, ends, length)
    sets, sizes = [np.zeros(0, dtype=np.uint64)], [np.zeros(0, dtype=np.int64)]
    for some in runs(stops - begins, 2 * _PIECE, len(begins)):
        hashes, offsets = distinct(*gram_hashes(*gather(codes, begins[some], stops[some]), length))
        sets.append(hashes)
        sizes.append(np.diff(offsets))
    hashes, offsets = np.concatenate(sets), starts_of(np.concatenate(sizes))
    if len(begins) == len(starts):
        return hashes, offsets
    borders = np.append(offsets[first], offsets[-1])
    merged = []
    for start, end, parts in zip(
        borders[:-1].tolist(), borders[1:].tolist(), np.diff(first, append=len(begins)), strict=True
    ):
        ascending = hashes[start:end]  # a part of `hashes`, sorted where it lies
        if parts > 1:
            ascending.sort()
            ascending = ascending[firsts(ascending)]
        merged.append(ascending)
    return np.concatenate(merged), starts_of(np.array([len(part) for part in merged], dtype=np.int64))


def _folded(signatures: NDArray[np.uint32], settings: Duplicates) -> NDArray[np.uint32]:
    """[D, bands * rows] to [D, bands]: a hash of 32 bits; a collision only proposes one pair more."""
    folded = np.zeros((len(signatures), settings.bands), dtype=np.uint64)
    rows = signatures.reshape(len(signatures), settings.bands, settings.rows)
    for row in range(settings.rows):
        folded = (folded ^ rows[:, :, row]) * _FOLD
        folded ^= folded >> np.uint64(29)
    return (folded >> np.uint64(32)).astype(np.uint32)
