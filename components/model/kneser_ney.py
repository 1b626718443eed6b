"""A character n-gram model with modified Kneser-Ney smoothing: the bar that the neural model has to clear.

Method: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling" (1998), section 3:
interpolated, three discounts an order, estimated from counts of counts; lower orders count distinct left neighbours.
As in KenLM (Heafield et al. 2013), a document begins with one begin mark, n-grams that start with it keep their plain
counts (nothing can stand to their left), and unigrams are interpolated with the uniform distribution over the
vocabulary: the characters of the training text, the end mark and one symbol for every unknown character. An unknown
character of the scored text costs what that one symbol costs, which flatters this model slightly: the bar is not lowered.

Counting is sorting: a k-gram is a number made of its (k-1)-gram's rank and its last character, so one sort an order
counts everything. `bits_per_character` holds only two orders at a time, which is what lets it read tens of millions of
characters in little memory; `KneserNey.train` keeps all of them.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.atomic import atomic_file
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Longs = NDArray[np.int64]
    Ints = NDArray[np.int32]
    Floats = NDArray[np.float64]
    Flags = NDArray[np.bool_]

BEGIN, END, FIRST_CHARACTER = 0, 1, 2
_UNSEEN = -1
_CODE_POINTS = 0x110000
# Used where a tiny corpus has too few counts of counts to estimate discounts from; the values KenLM falls back to.
_FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
_POSITIONS = 2**31 - 1  # of one model: ranks and positions are 32 bits wide


@dataclass(frozen=True)
class _Order:
    """The n-grams of one order k. `keys` are sorted, context * vocabulary + character; a context is a (k-1)-gram.

    counts: [G] of each k-gram (distinct left neighbours below the highest order); discounts: of counts 0, 1, 2, 3+;
    total, backoff: [contexts] sum of counts, and the share of the mass that is left for order k - 1.
    """

    keys: Longs
    counts: Ints
    discounts: Floats
    total: Ints
    backoff: Floats


class KneserNey:
    """A trained model; build it with `train`."""

    def __init__(self, order: int, alphabet: Longs, orders: list[_Order]) -> None:
        self.order = order
        self._text = _Text(alphabet)
        self._orders = orders

    @property
    def symbols(self) -> int:
        """Size of what is predicted: characters of the training text, end mark, unknown."""
        return self._text.symbols

    @classmethod
    def train(cls, contents: Sequence[str], order: int) -> KneserNey:
        """Count `contents` (at least one document) and estimate the discounts; see `bits_per_character` for memory."""
        text = _Text.of(contents)
        return cls(order, text.alphabet, list(_levels(text, contents, order)))

    def probabilities(self, contents: Sequence[str]) -> Floats:
        """Probability of every character and of each end mark given what stands before it, documents in order: [sum(len + 1)]."""
        return _probabilities(self._text, contents, self._orders, self.order)

    def document_bits(self, contents: Sequence[str]) -> Floats:
        """Bits for each document, its end mark included: [D]. Over `len + 1` it is the document's bits per character."""
        if not len(contents):
            return np.zeros(0)
        lengths = np.fromiter(map(len, contents), np.int64, len(contents)) + 1
        starts = np.cumsum(lengths) - lengths
        return np.add.reduceat(-np.log2(self.probabilities(contents)), starts)

    def save(self, path: Path) -> None:
        """Write the model atomically as plain arrays (.npz): nothing in it is executed when it is read."""
        arrays = {f"{name}{k}": getattr(level, name) for k, level in enumerate(self._orders) for name in _FIELDS}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, alphabet=self._text.alphabet, **arrays)

    @classmethod
    def load(cls, path: Path) -> KneserNey:
        """Read what `save` wrote; InkwellError when it is no such file."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                order = sum(name.startswith("keys") for name in arrays.files)
                levels = [_Order(**{name: arrays[f"{name}{k}"] for name in _FIELDS}) for k in range(order)]
                return cls(order, arrays["alphabet"], levels)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InkwellError(f"{path} is no Kneser-Ney model ({error}): delete it and run its step again.") from error


_FIELDS = tuple(_Order.__dataclass_fields__)


class _Text:
    """The alphabet of a training text, and texts as numbers: a character is its place in `alphabet` + FIRST_CHARACTER."""

    def __init__(self, alphabet: Longs) -> None:
        self.alphabet = alphabet  # sorted code points
        self.width = len(alphabet) + FIRST_CHARACTER
        self.symbols = len(alphabet) + 2
        self._ids = np.full(_CODE_POINTS, _UNSEEN, dtype=np.int32)
        self._ids[alphabet] = np.arange(FIRST_CHARACTER, self.width, dtype=np.int32)

    @classmethod
    def of(cls, contents: Sequence[str]) -> _Text:
        seen = np.zeros(_CODE_POINTS, dtype=bool)
        seen[_code_points(contents)] = True
        return cls(np.flatnonzero(seen))

    def stream(self, contents: Sequence[str], deepest: int) -> tuple[Ints, NDArray[np.uint8]]:
        """All documents as one stream [begin, characters, end]..., and how far each position is from its begin mark.

        Distances over `deepest` are told as `deepest`.
        """
        lengths = np.fromiter(map(len, contents), np.int64, len(contents)) + 2
        ends = np.cumsum(lengths)
        starts = ends - lengths
        size = int(ends[-1]) if len(ends) else 0
        if size > _POSITIONS:
            raise InkwellError(
                f"a Kneser-Ney model reads at most {_POSITIONS:,} characters, not {size:,}: "
                "lower clean.kneser_ney_characters or tag.perplexity.characters."
            )
        tokens = np.empty(size, dtype=np.int32)
        inner = np.ones(size, dtype=bool)
        tokens[starts], tokens[ends - 1] = BEGIN, END
        inner[starts] = inner[ends - 1] = False
        tokens[inner] = self._ids[_code_points(contents)]
        depth = np.full(size, deepest, dtype=np.uint8)
        for distance in range(deepest):
            depth[starts[lengths > distance] + distance] = distance
        return tokens, depth


def _levels(text: _Text, contents: Sequence[str], order: int) -> Iterator[_Order]:
    """The orders 1 .. `order` of a model of `contents`, each made when the next has been counted."""
    tokens, depth = text.stream(contents, order)
    # How many contexts the counted order has, and the one below it.
    width, contexts, contexts_below = text.width, 1, 1
    grams = tokens  # rank of the k-gram that ends at each position, _UNSEEN where the document is not that deep
    pending: tuple[Longs, Ints, Flags] | None = None  # keys, counts, which grams start with BEGIN
    for k in range(1, order + 1):
        here = depth >= max(1, k - 1)  # the begin mark is never predicted
        keys = tokens[here].astype(np.int64)
        if k > 1:
            keys += _contexts(grams, here).astype(np.int64) * width
        ordered, places = _sorted(keys, contexts * width if k > 1 else width)
        del keys
        new = np.ones(len(ordered), dtype=bool)
        np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
        firsts = np.flatnonzero(new)
        keys = ordered[firsts]
        del ordered
        counts = np.diff(firsts, append=len(new)).astype(np.int32)
        examples = places[firsts]  # one place of each k-gram; any will do
        if pending is not None:
            # Lower orders count distinct left neighbours: one for every k-gram that ends in the (k-1)-gram.
            known = width if k == 2 else len(pending[0])
            neighbours = np.bincount(grams[here][examples], minlength=known).astype(np.int32)
            lower, plain, begins = pending
            counted = np.where(begins, plain, neighbours[lower] if k == 2 else neighbours)
            pending = None
            yield _estimate(lower, counted, width, contexts_below)
            del lower, plain, begins, counted, neighbours
        begins_here = depth[here][examples] == k - 1
        del examples, firsts
        contexts_below, contexts = contexts, width if k == 1 else len(keys)
        if 1 < k < order:
            ranks = np.empty(len(new), dtype=np.int32)
            ranks[places] = np.cumsum(new, dtype=np.int32) - 1
            grams = np.full(len(tokens), _UNSEEN, dtype=np.int32)
            grams[here] = ranks
            del ranks
        del places, new
        pending = (keys, counts, begins_here)
    assert pending is not None
    yield _estimate(pending[0], pending[1], width, contexts_below)


def _contexts(grams: Ints, here: Flags) -> Ints:
    """What stands before each position that `here` names; the first position of a stream has nothing before it."""
    before = grams[:-1][here[1:]]
    return np.concatenate((np.full(int(here[0]), _UNSEEN, dtype=np.int32), before)) if here[0] else before


def _sorted(keys: Longs, bound: int, packed: bool | None = None) -> tuple[Longs, Ints]:
    """`keys` (0 <= key < bound) in order, and the place that each had; equal keys in any order. `keys` is used up.

    Where key and place fit into 64 bits together, sorting them as one number takes a tenth of the time of `argsort`.
    """
    size = len(keys)
    if packed if packed is not None else 0 < bound * size < 2**64:
        both = keys.view(np.uint64)
        both *= np.uint64(size)
        both += np.arange(size, dtype=np.uint32)
        both.sort()
        places = np.empty(size, dtype=np.int32)
        np.remainder(both, np.uint64(size), out=places, casting="unsafe")
        both //= np.uint64(size)
        return keys, places
    places = np.argsort(keys).astype(np.int32)
    return keys[places], places


def _probabilities(text: _Text, contents: Sequence[str], levels: Iterator[_Order] | list[_Order], order: int) -> Floats:
    """Each level is looked at once, from the first order to the highest, so that `levels` may be made on the way."""
    tokens, depth = text.stream(contents, order)
    result = np.full(len(tokens), 1.0 / text.symbols)
    grams = tokens
    for k, level in enumerate(levels, 1):
        places = np.flatnonzero(depth >= max(1, k - 1))
        context = np.zeros(len(places), dtype=np.int32) if k == 1 else grams[places - 1]
        # A context that nothing ever followed says nothing: the shorter context decides alone.
        seen = context != _UNSEEN
        seen[seen] = level.total[context[seen]] > 0
        places, context = places[seen], context[seen]
        characters = tokens[places]
        index, found = _find(level.keys, context.astype(np.int64) * text.width + characters)
        found &= characters != _UNSEEN
        counts = level.counts[index]
        kept = np.where(found, counts - level.discounts[np.minimum(counts, 3)], 0.0)
        result[places] = kept / level.total[context] + level.backoff[context] * result[places]
        if 1 < k < order:
            grams = np.full(len(tokens), _UNSEEN, dtype=np.int32)
            grams[places[found]] = index[found]
    return result[depth >= 1]


def _find(keys: Longs, wanted: Longs) -> tuple[Longs, Flags]:
    """Where each of `wanted` is in the sorted `keys`, and whether it is there; in order, for the processor's cache."""
    order = np.argsort(wanted)
    index = np.empty(len(wanted), dtype=np.int64)
    index[order] = np.searchsorted(keys, wanted[order])
    index[index == len(keys)] = 0
    return index, keys[index] == wanted


def _code_points(contents: Sequence[str]) -> NDArray[np.uint32]:
    return np.frombuffer("".join(contents).encode("utf-32-le", "surrogatepass"), dtype="<u4")


def _estimate(keys: Longs, counts: Ints, width: int, contexts: int) -> _Order:
    discounts = np.array([0.0, *_discounts(counts)])
    context = keys // width
    total = np.bincount(context, weights=counts, minlength=contexts)
    left = np.bincount(context, weights=discounts[np.minimum(counts, 3)], minlength=contexts).astype(np.float64)
    backoff = np.divide(left, total, out=np.zeros(contexts), where=total > 0)
    return _Order(keys, counts, discounts, total.astype(np.int32), backoff)


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """D1, D2, D3+ of Chen and Goodman's equation 17, from how many n-grams were counted one, two, three, four times."""
    ones, twos, threes, fours = (int((counts == value).sum()) for value in (1, 2, 3, 4))
    if not (ones and twos and threes):
        return _FALLBACK_DISCOUNTS
    y = ones / (ones + 2 * twos)
    found = (1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes)
    if any(not 0 <= discount <= most for discount, most in zip(found, (1, 2, 3), strict=True)):
        return _FALLBACK_DISCOUNTS
    return found


def bits_per_character(train: Sequence[str], held_out: Sequence[str], order: int) -> float:
    """Bits a model of `train` needs for `held_out`, over its characters and one end mark a document.

    The same convention as `components.model.scoring.bits_per_character`. Memory: about 80 bytes a character of `train` at order 5
    (19 million characters of Chinese verse: 1.4 GiB and 10 seconds).
    """
    text = _Text.of(train)
    probabilities = _probabilities(text, held_out, _levels(text, train, order), order)
    return float(-np.log2(probabilities).sum()) / len(probabilities) if len(probabilities) else math.nan
