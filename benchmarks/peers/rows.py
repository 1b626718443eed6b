"""The packed corpus as other trainers read it: one stream of tokens, cut into rows of equal length.

Documents follow each other in an order drawn once, [begin, ..., end][begin, ..., end]; a row may begin in the middle of
one. That is how transformers' run_clm example groups texts and how litdata's TokensLoader cuts them. Needs numpy only:
litgpt's environment reads it too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.corpus.packed import TokenShards

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def rows(tokens: Path, split: str, length: int, seed: int) -> NDArray[np.int64]:
    """All of a split as rows, int64 [R, length]; what does not fill the last row is left out, as both trainers do."""
    import numpy as np

    shards = TokenShards(tokens, split)
    order = np.random.default_rng(seed).permutation(len(shards))
    stream = np.concatenate([shards.document(int(index)) for index in order]).astype(np.int64)
    count = len(stream) // length
    return stream[: count * length].reshape(count, length)
