"""From buckets to verified pairs, in linear time, complete enough that any member of a cluster may be the one that stays.

A bucket of few documents proposes all its pairs. A crowded one (a thousand pages with one boilerplate) would propose too
many; there every member is compared with some hubs only: the longest members and the earliest ones, because by default the
longest document of a cluster stays, or the first. A boilerplate hides true copies from each other, so a crowded bucket is
also divided by the next band's hash, in which copies agree more often than strangers do. How large a bucket may be before
it counts as crowded follows from the corpus: the largest bound that keeps proposals within a budget a document. Then each
distinct proposal is judged by the exact Jaccard similarity of the two documents' n-grams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.corpus.shingles import firsts, ragged, similarities, starts_of
from components.progress import bar
from components.tag.duplicates.codes import Corpus, let_go, mapped_array, runs, workers_for
from components.tag.duplicates.signatures import sets_of_stretches
from components.tag.executors import mapped

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.corpus.shingles import Floats, Hashes, Ints

_BOUNDS = (512, 256, 128, 64, 32, 16, 8, 4)  # members beyond which a bucket may count as crowded
_SMALL_BUDGET, _BUDGET = 4_000_000, 64  # proposals: as many in any case, and as many for each document
_DIVIDED_BOUND = 8  # hubs of the parts of a crowded bucket
_PROPOSALS_AT_ONCE = 2**23
_VERIFIED_CHARACTERS, _VERIFIED_PAIRS = 2_000_000, 100_000  # of one task
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Proposals:
    """Pairs of positions (the earlier above, the later below, in 32 bits each), spread over files by their hash."""

    files: tuple[Path, ...]
    crowded: int  # buckets beyond the bound
    bound: int

    def distinct(self) -> Iterator[Hashes]:
        """Each pair once, rising within each file."""
        for file in self.files:
            found = np.fromfile(file, dtype=np.uint64)
            found.sort()
            yield found[firsts(found)]


def propose(bands: NDArray[np.uint32], characters: Ints, work: Path) -> Proposals:
    """Pairs of documents that share a bucket of any band; `characters` [D]: the longer a document, the sooner it is a hub."""
    count = len(characters)
    rank = np.empty(count, dtype=np.uint64)
    by_rank = np.lexsort((np.arange(count), -characters))
    rank[by_rank] = np.arange(count, dtype=np.uint64)
    bound, expected, crowded = _bound(bands)
    files = tuple(work / f"proposals.{number:04}" for number in range(1 + expected // _PROPOSALS_AT_ONCE))
    for file in files:
        file.write_bytes(b"")
    with bar("pairs", len(bands)) as progress:
        for number, hashes in enumerate(bands):
            found = _of_band(hashes, bands[(number + 1) % len(bands)], rank, by_rank, bound)
            found = found[firsts(found)]
            place = (found * _MIX >> _HALF) % np.uint64(len(files))
            for at, file in enumerate(files):
                with file.open("ab") as handle:
                    found[place == at].tofile(handle)
            let_go(bands)
            progress.advance()
    return Proposals(files, crowded, bound)


def _bound(bands: NDArray[np.uint32]) -> tuple[int, int, int]:
    """The largest of _BOUNDS that keeps to the budget, how many pairs it proposes, and how many buckets are crowded."""
    buckets = np.zeros(1, dtype=np.int64)  # number of buckets by size
    for hashes in bands:
        sizes = np.bincount(_sizes(np.sort(hashes)))
        buckets, sizes = (buckets, sizes) if len(buckets) >= len(sizes) else (sizes, buckets)
        buckets[: len(sizes)] += sizes
        let_go(bands)
    size = np.arange(len(buckets))
    budget = max(_SMALL_BUDGET, _BUDGET * bands.shape[1])
    for bound in _BOUNDS:
        crowded = size > bound
        each = np.where(crowded, size * (bound + _DIVIDED_BOUND), size * (size - 1) // 2)
        expected = int(np.sum(each * buckets))
        if expected <= budget:
            break
    return bound, expected, int(buckets[crowded].sum())


def _sizes(ascending: NDArray[np.unsignedinteger]) -> Ints:
    """How often each value of a sorted array occurs."""
    return np.diff(np.append(np.flatnonzero(firsts(ascending)), len(ascending)))


def _of_band(
    hashes: NDArray[np.uint32], following: NDArray[np.uint32], rank: Hashes, by_rank: Ints, bound: int
) -> Hashes:
    """The proposals of one band, sorted, some repeated."""
    packed = hashes.astype(np.uint64) << _HALF
    packed |= rank
    packed.sort()
    sizes = np.repeat(*(2 * [_sizes(packed >> _HALF)]))
    packed, sizes = packed[sizes > 1], sizes[sizes > 1]
    found = [_with_first(packed[sizes <= bound], bound, by_rank)]
    packed = packed[sizes > bound]
    if len(packed):
        found.append(_with_first(packed, bound // 2, by_rank))
        members = by_rank[(packed & _LOW).astype(np.int64)]
        above = packed & ~_LOW
        found.append(_with_first(np.sort(above | members.astype(np.uint64)), bound // 2))
        both = (above ^ (following[members].astype(np.uint64) << _HALF)) * _MIX
        found.append(_with_first(np.sort((both & ~_LOW) | rank[members]), _DIVIDED_BOUND, by_rank))
    pairs = np.concatenate(found)
    pairs.sort()
    return pairs


def _with_first(packed: Hashes, bound: int, names: Ints | None = None) -> Hashes:
    """Pairs of each member with the `bound` first ones of its bucket before it.

    `packed`: sorted, the bucket above, the member below; the position of member m is `names[m]`, or m itself.
    """
    sizes = _sizes(packed >> _HALF)
    place = ragged(np.zeros_like(sizes), sizes)
    partners = np.minimum(place, bound)
    first = ragged(np.repeat(starts_of(sizes)[:-1], sizes), partners)
    members = (packed & _LOW).astype(np.int64)
    if names is not None:
        members = names[members]
    one, other = np.repeat(members, partners), members[first]
    return (np.minimum(one, other).astype(np.uint64) << _HALF) | np.maximum(one, other).astype(np.uint64)


def verify(
    corpus: Corpus, documents: Ints, pairs: Hashes, length: int, floor: float, workers: int | None
) -> tuple[Ints, Ints, Floats]:
    """Those of the proposed pairs that are similar: rows a < b and similarity, in the order of `pairs`."""
    first, second = documents[(pairs >> _HALF).astype(np.int64)], documents[(pairs & _LOW).astype(np.int64)]
    lengths = np.diff(corpus.offsets)
    costs = lengths[first] + lengths[second]
    make = partial(_verifier, corpus.file, len(corpus.codes), length, floor)
    found: list[Floats] = [np.zeros(0)]
    with bar("near duplicates", len(pairs)) as progress:
        for table in mapped(
            make, _tasks(corpus, first, second, costs), "local", workers_for(int(costs.sum()), workers)
        ):
            found.append(table["similarity"].to_numpy())
            progress.advance(len(found[-1]))
    similarity = np.concatenate(found)
    near = similarity >= floor
    return first[near], second[near], similarity[near]


def _tasks(corpus: Corpus, first: Ints, second: Ints, costs: Ints) -> Iterator[pa.Table]:
    """Pairs that are verified together: where the codes of both sides begin and end."""
    import pyarrow as pa

    for some in runs(costs, _VERIFIED_CHARACTERS, _VERIFIED_PAIRS):
        columns = {}
        for side, rows in (("first", first[some]), ("second", second[some])):
            columns[side], columns[f"{side}_end"] = corpus.offsets[rows], corpus.offsets[rows + 1]
        yield pa.table(columns)


def _verifier(file: Path, size: int, length: int, floor: float) -> Callable[[pa.Table], pa.Table]:
    """The function of a worker: pairs to their similarities."""
    import pyarrow as pa

    codes = mapped_array(file, size)

    def work_on(table: pa.Table) -> pa.Table:
        both = np.concatenate([table["first"].to_numpy(), table["second"].to_numpy()])
        ends = np.concatenate([table["first_end"].to_numpy(), table["second_end"].to_numpy()])
        # Documents have different starts (none is empty), so the start tells which one it is.
        order = np.argsort(both)
        fresh = firsts(both[order])
        number = np.empty(len(both), dtype=np.int64)
        number[order] = np.cumsum(fresh) - 1
        chosen = order[fresh]
        sets = sets_of_stretches(codes, both[chosen], ends[chosen], length)
        pairs = number[: len(table)], number[len(table) :]
        let_go(codes)
        return pa.table({"similarity": similarities(sets, sets, pairs, floor)})

    return work_on
