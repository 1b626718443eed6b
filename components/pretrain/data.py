"""The corpus as the loader reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from components.packed import TokenShards


class CorpusSequences:
    """Documents of one split; every token but the first of each is predicted (`components.training.order.Sequences`)."""

    def __init__(self, shards: TokenShards) -> None:
        self.shards = shards
        self.fingerprint = shards.fingerprint
        self.lengths: NDArray[np.int64] = shards.lengths

    def __len__(self) -> int:
        return len(self.shards)

    def tokens(self, index: int) -> NDArray[np.int64]:
        """Token ids of document `index`."""
        return self.shards.document(index).astype("int64")

    def counted(self, index: int) -> None:
        """Everything counts."""
