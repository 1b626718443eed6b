"""Numbers in threes, cut alike by SentencePiece, transformers and llama.cpp.

SentencePiece and llama.cpp know no rule that cuts a text before pieces are merged, so the rule is put into the pieces: every
pair and every triple of digits is one, all pairs have one score and all triples a higher one. Both programs take the best score
first and the leftmost among equals: in 12345 they merge 12, then 123, which outranks any further pair, then 45. No other
piece holds a digit (split_digits), so nothing else in the text is touched. `tokenizers` breaks no ties by position; there the
same is said by a pre-tokenizer.
"""

from __future__ import annotations

from itertools import product

DIGITS = "0123456789"
PAIRS = tuple(map("".join, product(DIGITS, repeat=2)))
TRIPLES = tuple(map("".join, product(DIGITS, repeat=3)))
# What `tokenizers` splits off before it merges: runs of up to three, from the left.
PATTERN = "[0-9]{1,3}"

# Merges of digits compete with no others, so only their order among themselves matters.
_SCORES = {2: -2.0, 3: -1.0}


def with_triples(model: bytes) -> bytes:
    """A SentencePiece model with every pair and triple of digits as further pieces, after those it has."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(model)
    for piece in (*PAIRS, *TRIPLES):
        proto.pieces.add(piece=piece, score=_SCORES[len(piece)])
    proto.trainer_spec.vocab_size = len(proto.pieces)
    written: bytes = proto.SerializeToString(deterministic=True)
    return written
