"""Documents that say the same thing: exact and near duplicates, found in linear time, every verdict verified.

Near duplicates follow Broder (1997): documents are sets of character n-grams (shingles), MinHash signatures (rensa)
cut into bands propose pairs, and each proposed pair is judged by the exact Jaccard similarity of its sets. Here pairs are
recorded; which document of a cluster stays is for `clean` to say. All that grows with the text lies on disk; in memory
there are a few hundred bytes a document. The outcome depends on the parts, the parameters and the seed, not on the number of
processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from components.atomic import atomic_file
from components.corpus.tagged_documents import duplicates_schema
from components.tag.duplicates.codes import let_go, read
from components.tag.duplicates.exact import SEEN, first_with_key, seen_before
from components.tag.duplicates.pairs import propose, verify
from components.tag.duplicates.signatures import shingle_length, sign

if TYPE_CHECKING:
    from components.configuration.tag import Duplicates
    from components.corpus.shingles import Floats, Ints

__all__ = ["SEEN", "Found", "find"]


@dataclass(frozen=True)
class Found:
    """What was found among N documents.

    same_text: [N] row of the first document with an equal comparison key, the own row where there is none; SEEN (-1) where a
    Bloom filter says that there is one, which it cannot name. cluster: [N] row of the first document of the cluster: what
    is tied together by equal keys and recorded pairs. pairs: Parquet file (`components.corpus.tagged_documents.duplicates_schema`), in
    order of a and b within some row groups each. figures: shingle_characters, exact_duplicates, compared_documents,
    compared_pairs, recorded_pairs, crowded_buckets, crowded_from (members), bloom_hits.
    """

    same_text: Ints
    cluster: Ints
    pairs: Path
    figures: dict[str, float]


def find(parts: Sequence[Path], settings: Duplicates, seed: int, work: Path, workers: int | None = None) -> Found:
    """Duplicates among the documents of Parquet files (column `text`), whose rows are counted through all parts.

    Temporary files go to `work` and are removed, but for `work/pairs.parquet`. `workers`: processes, None one a core.
    Documents whose key is empty resemble nothing; those shorter than a shingle have exact duplicates only.
    """
    work.mkdir(parents=True, exist_ok=True)
    corpus = read(parts, "keys", work, workers)
    same_text = seen_before(corpus, settings) if settings.bloom else first_with_key(corpus)
    keys = np.diff(corpus.offsets)
    leaders = np.flatnonzero((same_text == np.arange(len(corpus))) & (keys > 0))
    length = settings.shingle_characters or shingle_length(corpus, leaders, settings, seed)
    documents = leaders[keys[leaders] >= length]
    let_go(corpus.codes)
    bands = sign(corpus, documents, length, settings, seed, work, workers)
    proposals = propose(bands, corpus.characters[documents], work)
    joined = np.where(same_text == SEEN, np.arange(len(corpus)), same_text)
    compared = recorded = 0
    path = work / "pairs.parquet"
    with atomic_file(path) as temporary, _writer(temporary) as write:
        for pairs in proposals.distinct():
            a, b, similarity = verify(corpus, documents, pairs, length, settings.floor, workers)
            write(a, b, similarity)
            joined = _joined(joined, a, b)
            compared += len(pairs)
            recorded += len(a)
    for file in (work / "keys.codes", work / "bands", *proposals.files):
        file.unlink(missing_ok=True)
    figures: dict[str, float] = {
        "shingle_characters": length,
        "exact_duplicates": int(np.sum(same_text != np.arange(len(corpus)))),
        "compared_documents": len(documents),
        "compared_pairs": compared,
        "recorded_pairs": recorded,
        "crowded_buckets": proposals.crowded,
        "crowded_from": proposals.bound + 1,
        "bloom_hits": int(np.sum(same_text == SEEN)),
    }
    return Found(same_text, joined, path, figures)


def _joined(roots: Ints, a: Ints, b: Ints) -> Ints:
    """[N] first row of each component of the graph in which i is tied to roots[i] and a to b."""
    from scipy import sparse
    from scipy.sparse.csgraph import connected_components

    count = len(roots)
    if not count:
        return roots
    one, other = np.concatenate([np.arange(count), a]), np.concatenate([roots, b])
    graph = sparse.coo_array((np.ones(len(one), dtype=np.int8), (one, other)), shape=(count, count))
    number, labels = connected_components(graph, directed=False)
    first: Ints = np.full(number, count, dtype=np.int64)
    np.minimum.at(first, labels, np.arange(count))
    found: Ints = first[labels]
    return found


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[Ints, Ints, Floats], None]]:
    """A Parquet file of pairs, and the function that adds some to it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = duplicates_schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:

        def write(a: Ints, b: Ints, similarity: Floats) -> None:
            writer.write_table(pa.table({"a": a, "b": b, "similarity": similarity}, schema=schema))

        yield write
