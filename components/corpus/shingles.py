"""What texts are compared by: their letters as sets of character n-grams, one text at a time or very many at once.

A key is a text without what scribes, editors and web pages change freely: blanks, punctuation, letter case. Its shingles
(Broder 1997) are its distinct n-grams of characters, and the similarity of two texts is the Jaccard similarity of these
sets. The forms over many texts do the same on arrays: N texts are one array of code points and [N + 1] offsets, and an
n-gram is a hash of 63 bits: one-to-one up to three characters; of longer n-grams one pair in 10^19 or so shares a hash.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Codes = NDArray[np.uint32]
    Hashes = NDArray[np.uint64]
    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

_COMPARED_AT_ONCE = 500_000  # n-grams of the pairs that are compared together: more do not fit the processor's caches
_KEYED_AT_ONCE = 1_000_000  # characters
# Odd multipliers: Knuth's golden ratio, and the two of the finalizer of SplitMix64 (Steele et al. 2014).
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_CODE_POINT_BITS = np.uint64(21)
_EXACT_LENGTH = 3  # as many code points as fit into 63 bits
_BITS = np.uint64(2**63 - 1)  # hashes are numbers of columns of a sparse matrix too, and these have a sign


class _Letters(dict[int, int | None]):
    """A table for `str.translate` that deletes what is neither letter, mark nor digit; filled as characters are met."""

    def __missing__(self, point: int) -> int | None:
        value = self[point] = point if _is_letter(point) else None
        return value


def _is_letter(point: int) -> bool:
    return unicodedata.category(chr(point))[0] in "LMN"


_LETTERS = _Letters()


def comparison_key(text: str) -> str:
    """Letters, marks and digits of a text, letter case aside: what duplicates are judged by."""
    return text.casefold().translate(_LETTERS)


def shingles(key: str, length: int) -> set[str]:
    """The distinct n-grams of a key; empty when the key is shorter than one."""
    return {key[at : at + length] for at in range(len(key) - length + 1)}


def jaccard(first: set[str], second: set[str]) -> float:
    """Shared members over all members; 0 when either set is empty, so that empty documents match nothing."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared) if shared else 0.0


# --- many texts at once ---


def code_points(texts: Sequence[str]) -> tuple[Codes, Ints]:
    """All characters of N texts, one after the other, and [N + 1] where each begins."""
    offsets = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    # A lone surrogate is no character, but Python lets it stand in a string.
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return codes, offsets


def comparison_keys(texts: Sequence[str]) -> tuple[Codes, Ints]:
    """`comparison_key` of N texts as code points and offsets."""
    pieces: list[str] = []
    first = np.zeros(len(texts) + 1, dtype=np.int64)
    for number, text in enumerate(texts, 1):
        # A key is made character by character, so a very long text may be cut anywhere.
        pieces += [text[at : at + _KEYED_AT_ONCE] for at in range(0, len(text), _KEYED_AT_ONCE)]
        first[number] = len(pieces)
    keys, lengths = [np.zeros(0, dtype=np.uint32)], [np.zeros(0, dtype=np.int64)]
    for some in batches(pieces, _KEYED_AT_ONCE):
        codes, offsets = code_points([piece.casefold() for piece in some])
        letters = _letters()[codes]
        keys.append(codes[letters])
        before = np.concatenate([[0], np.cumsum(letters)])
        lengths.append(np.diff(before[offsets]))
    return np.concatenate(keys), starts_of(np.concatenate(lengths))[first]


@cache
def _letters() -> NDArray[np.bool_]:
    """For each code point whether a key keeps it."""
    return np.fromiter(map(_is_letter, range(0x110000)), dtype=bool, count=0x110000)


def batches(texts: Sequence[str], characters: int) -> Iterator[Sequence[str]]:
    """Runs of texts, each cut off by the text with which it has `characters` or more."""
    start = size = 0
    for number, text in enumerate(texts):
        size += len(text)
        if size >= characters:
            yield texts[start : number + 1]
            start, size = number + 1, 0
    if start < len(texts):
        yield texts[start:]


def starts_of(lengths: Ints) -> Ints:
    """[N] lengths to [N + 1] offsets."""
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ragged(starts: Ints, lengths: Ints) -> Ints:
    """The positions start, start + 1, ..., start + length - 1 of each of N stretches, one after the other."""
    within = np.arange(int(lengths.sum()), dtype=np.int64)
    return within + np.repeat(starts - starts_of(lengths)[:-1], lengths)


def gram_hashes(codes: Codes, offsets: Ints, length: int) -> tuple[Hashes, Ints]:
    """Hashes of all n-grams of N keys in their order, repeated ones repeatedly, and [N + 1] offsets into them."""
    lengths = np.diff(offsets)
    grams = max(0, len(codes) - length + 1)
    hashes = np.zeros(grams, dtype=np.uint64)
    for place in range(length):
        following = codes[place : place + grams]
        if length <= _EXACT_LENGTH:
            hashes <<= _CODE_POINT_BITS
            hashes |= following
        else:
            hashes *= _STEP
            hashes += following
    hashes &= _BITS
    _mix(hashes)
    inside = np.ones(len(codes), dtype=bool)
    for back in range(1, length):  # an n-gram that begins in the last length - 1 characters is not this document's
        ends = offsets[1:] - back
        inside[ends[lengths >= back]] = False
    return hashes[inside[:grams]], starts_of(np.maximum(lengths - length + 1, 0))


def _mix(hashes: Hashes) -> None:
    """Spread each hash over all 63 bits, in place and one-to-one, as SplitMix64 does over 64."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        hashes ^= hashes >> np.uint64(shift)
        hashes *= factor
        hashes &= _BITS
    hashes ^= hashes >> np.uint64(31)


def firsts(ascending: NDArray[Any]) -> NDArray[np.bool_]:
    """Which members of a sorted array differ from the one before them."""
    fresh = np.ones(len(ascending), dtype=bool)
    fresh[1:] = ascending[1:] != ascending[:-1]
    return fresh


def distinct(hashes: Hashes, offsets: Ints) -> tuple[Hashes, Ints]:
    """The sets: of each of N stretches of hashes the distinct ones, rising, and [N + 1] offsets into them."""
    if not len(hashes):
        return hashes, offsets
    order = np.argsort(hashes)
    ascending = hashes[order]
    fresh = firsts(ascending)
    rank = np.empty(len(hashes), dtype=np.uint64)
    rank[order] = np.cumsum(fresh) - 1
    # The document above, the rank of the hash below: one sort of whole numbers, which numpy does fastest.
    packed = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint64), np.diff(offsets))
    packed <<= np.uint64(32)
    packed |= rank
    packed.sort()
    packed = packed[firsts(packed)]
    documents = (packed >> np.uint64(32)).astype(np.int64)
    sets = ascending[fresh][packed & np.uint64(0xFFFFFFFF)]
    return sets, starts_of(np.bincount(documents, minlength=len(offsets) - 1))


def similarities(
    first: tuple[Hashes, Ints], second: tuple[Hashes, Ints], pairs: tuple[Ints, Ints], floor: float = 0.0
) -> Floats:
    """Jaccard similarity [P] of pairs of sets: `pairs[0]` numbers sets of `first`, `pairs[1]` of `second`.

    Sets are as `distinct` gives them. Where the sizes alone say that a similarity lies below `floor`, 0 stands for it.
    """
    sizes = [np.diff(offsets)[numbers] for (_, offsets), numbers in zip((first, second), pairs, strict=True)]
    smaller, larger = np.minimum(*sizes), np.maximum(*sizes)
    possible = np.flatnonzero((smaller > 0) & (smaller >= floor * larger))
    shared = np.zeros(len(pairs[0]), dtype=np.int64)
    matrices = [_matrix(*sets) for sets in (first, second)]
    total = starts_of((sizes[0] + sizes[1])[possible])
    start = 0
    while start < len(possible):
        end = max(start + 1, int(np.searchsorted(total, total[start] + _COMPARED_AT_ONCE, side="right")) - 1)
        some = possible[start:end]
        both = matrices[0][pairs[0][some]].multiply(matrices[1][pairs[1][some]])
        shared[some] = np.diff(both.indptr)
        start = end
    union = sizes[0] + sizes[1] - shared
    return np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)


def _matrix(hashes: Hashes, offsets: Ints) -> Any:
    """Sets as the rows of a sparse matrix whose columns are all hashes: multiplying two rows merges two sorted lists."""
    from scipy import sparse

    ones = np.ones(len(hashes), dtype=np.int8)
    return sparse.csr_array((ones, hashes.view(np.int64), offsets), shape=(len(offsets) - 1, 2**63 - 1))


def sets_of(keys: Iterable[str], length: int) -> tuple[Hashes, Ints]:
    """The shingles of N keys (as `comparison_key` gives them) as sets of hashes."""
    return distinct(*gram_hashes(*code_points(list(keys)), length))
