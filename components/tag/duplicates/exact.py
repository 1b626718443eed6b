"""Documents with the same letters and digits: by a table of digests, or by a Bloom filter of a fixed chance of error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from components.configuration.tag import Duplicates
    from components.corpus.shingles import Ints
    from components.tag.duplicates.codes import Corpus

SEEN = -1  # in place of a row: the filter says that there was one, and cannot say which


def first_with_key(corpus: Corpus) -> Ints:
    """[N] row of the first document with an equal key, the own row where there is none or the key is empty."""
    words = np.ascontiguousarray(corpus.digests).view("<u8").reshape(-1, 2)
    rows = np.arange(len(corpus))
    found = rows.copy()
    filled = rows[np.diff(corpus.offsets) > 0]
    order = filled[np.lexsort((words[filled, 1], words[filled, 0]))]  # stable: equal ones in the order of rows
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = np.any(words[order[1:]] != words[order[:-1]], axis=1)
    if len(order):
        found[order] = order[np.flatnonzero(fresh)[np.cumsum(fresh) - 1]]
    return found


def seen_before(corpus: Corpus, settings: Duplicates) -> Ints:
    """[N] the own row, or SEEN where a Bloom filter says that an equal key came before; empty keys never did.

    Of `bloom_documents` different documents, `bloom_error` are wrongly said to be seen. A larger corpus gets a larger filter.
    """
    from rbloom import Bloom

    filter_ = Bloom(max(settings.bloom_documents, len(corpus)), settings.bloom_error, hash_func=int)
    found = np.arange(len(corpus))
    for row in np.flatnonzero(np.diff(corpus.offsets) > 0).tolist():
        digest = int.from_bytes(corpus.digests[row].tobytes(), "little", signed=True)
        if digest in filter_:
            found[row] = SEEN
        else:
            filter_.add(digest)
    return found
