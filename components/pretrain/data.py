"""The corpus as the loader reads it, and the part of it that is held out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel

    from components.corpus.packed import TokenShards


class CorpusSequences:
    """Documents of one split; every token but the first of each is predicted (`components.training.order.Sequences`)."""

    def __init__(self, shards: TokenShards) -> None:
        self.shards = shards
        self.fingerprint = shards.fingerprint
        self.lengths: NDArray[np.int64] = shards.lengths

    def __len__(self) -> int:
        return len(self.shards)

    def tokens(self, index: int) -> NDArray[np.unsignedinteger[Any]]:
        """Token ids of document `index`, as they lie on the disk: the loader copies what it takes of them."""
        return self.shards.document(index)

    def counted(self, index: int) -> None:
        """Everything counts."""


class HeldOut:
    """Bits per character of the validation split: of `shown` documents spread evenly over it, or of all of them."""

    def __init__(self, shards: TokenShards, shown: int) -> None:
        picked = np.unique(np.linspace(0, len(shards) - 1, min(shown, len(shards))).astype(int))
        self._shards = shards
        self._shown = [shards.document(int(index)) for index in picked]
        self._characters = shards.characters + len(shards)  # each end mark is one
        predicted = sum(len(document) - 1 for document in self._shown)
        self._shown_characters = self._characters * predicted / (shards.tokens - len(shards))

    def quick(self, model: PreTrainedModel, autocast: bool) -> float:
        """Of the documents shown; autocast: in bf16."""
        from components.model.scoring import document_bits

        return float(document_bits(model, self._shown, autocast=autocast).sum()) / self._shown_characters

    def whole(self, model: PreTrainedModel) -> float:
        """Of all documents."""
        from components.model.scoring import document_bits

        documents = [self._shards.document(index) for index in range(len(self._shards))]
        return float(document_bits(model, documents).sum()) / self._characters
