"""Conversations as the loader and the validation read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from components.chat.encoding import encode_conversations
from components.errors import InkwellError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerFast

    from components.corpus.conversations import Conversation


class ConversationSequences:
    """Encoded conversations; only answers count (`components.training.order.Sequences`).

    Conversations longer than `block` tokens are left out: cut, they would teach answers to questions unseen.
    `left_out` counts them.
    """

    def __init__(self, conversations: Sequence[Conversation], tokenizer: PreTrainedTokenizerFast, block: int) -> None:
        encoded = encode_conversations(tokenizer, [conversation.messages for conversation in conversations])
        kept = [(ids, answers) for ids, answers in encoded if len(ids) <= block]
        self.left_out = len(encoded) - len(kept)
        if not kept:
            raise InkwellError(
                f"all {len(encoded)} conversations are longer than sft.block = {block} tokens: make it larger, or "
                "instruct.maximum_characters smaller."
            )
        self._tokens = [np.array(ids, dtype=np.int64) for ids, _ in kept]
        self._counted = [np.array(answers, dtype=bool) for _, answers in kept]
        self.lengths: NDArray[np.int64] = np.array([len(tokens) for tokens in self._tokens], dtype=np.int64)
        digest = hashlib.sha256()
        for tokens in self._tokens:
            digest.update(tokens.tobytes() + b"|")
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, index: int) -> NDArray[np.int64]:
        """Token ids of conversation `index`."""
        return self._tokens[index]

    def counted(self, index: int) -> NDArray[np.bool_]:
        """Which of them are answers."""
        return self._counted[index]
