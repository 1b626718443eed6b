"""Tokenizers made of scored pieces, as SentencePiece trains them: their file, and exact twins for `tokenizers`.

Merging in SentencePiece always takes the pair that makes the best-scored piece, the leftmost first. BPE in `tokenizers`
takes the pair of lowest rank. Listing every split of every piece as a merge, best piece first, makes the two agree.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.vocabulary.digits import PAIRS, PATTERN, TRIPLES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPACE = "\u2581"  # what SentencePiece writes for a space

# Types of pieces; SentencePiece's numbers, which GGUF has taken over.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class Pieces:
    """A vocabulary by id: texts, scores and types. `space_prefix`: a space is put before every text."""

    texts: tuple[str, ...]
    scores: tuple[float, ...]
    types: tuple[int, ...]
    space_prefix: bool = False

    def of_types(self, *types: int) -> list[str]:
        """Pieces of these types, by id."""
        return [text for text, kind in zip(self.texts, self.types, strict=True) if kind in types]

    def mergeable(self) -> dict[str, float]:
        """Scores of the pieces that merging may make; all others are found in the text or stand for bytes."""
        ordinary = zip(self.texts, self.scores, self.types, strict=True)
        return {text: score for text, score, kind in ordinary if kind == NORMAL}

    @property
    def triples(self) -> bool:
        """Whether numbers are cut into threes: all pieces of three digits are there and have one score."""
        scores = dict(zip(self.texts, self.scores, strict=True))
        return set(PAIRS + TRIPLES) <= scores.keys() and len({scores[text] for text in TRIPLES}) == 1


def read_pieces(model: bytes) -> Pieces:
    """The pieces of a SentencePiece file."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(model)
    return Pieces(
        tuple(piece.piece for piece in proto.pieces),
        tuple(piece.score for piece in proto.pieces),
        tuple(int(piece.type) for piece in proto.pieces),
        bool(proto.normalizer_spec.add_dummy_prefix),
    )


def write_model(pieces: Pieces) -> bytes:
    """A SentencePiece file (BPE with byte fallback, text left as it is) of these pieces."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    for text, score, kind in zip(pieces.texts, pieces.scores, pieces.types, strict=True):
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = sentencepiece_model_pb2.TrainerSpec.BPE  # type: ignore[attr-defined]
    trainer.vocab_size = len(pieces.texts)
    trainer.byte_fallback = BYTE in pieces.types
    trainer.unk_id = pieces.types.index(UNKNOWN)
    trainer.unk_piece = pieces.texts[trainer.unk_id]
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = pieces.space_prefix
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    written: bytes = proto.SerializeToString(deterministic=True)
    return written


def with_more(model: bytes, further: Iterable[tuple[str, int]]) -> bytes:
    """A SentencePiece file with further pieces (text, type), which merge after all it has, in the order given."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made when it is imported
    proto.ParseFromString(model)
    score = min(0.0, *(piece.score for piece in proto.pieces))
    for text, kind in further:
        score -= 1.0
        proto.pieces.add(piece=text, score=score, type=kind)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    written: bytes = proto.SerializeToString(deterministic=True)
    return written


def splits(text: str, known: Collection[str]) -> list[tuple[str, str]]:
    """Every way to make a piece out of two known ones."""
    return [(text[:cut], text[cut:]) for cut in range(1, len(text)) if text[:cut] in known and text[cut:] in known]


def merges_of(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a piece out of two others, the best-scored piece first."""
    ranked = sorted((text for text in scores if len(text) > 1), key=lambda text: -scores[text])
    return [pair for text in ranked for pair in splits(text, scores)]


def twin(pieces: Pieces, special: Sequence[str], symbols: Sequence[str]) -> Tokenizer:
    """The same tokenizer for `tokenizers`, without a begin token.

    special: pieces that are found in a text as a whole and are no text themselves; symbols: found as a whole, but text.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    apart = {*special, *symbols}
    tokenizer = Tokenizer(
        models.BPE(
            vocab={text: token for token, text in enumerate(pieces.texts)},
            merges=merges_of({text: score for text, score in pieces.mergeable().items() if text not in apart}),
            unk_token=pieces.of_types(UNKNOWN)[0],
            byte_fallback=True,
            fuse_unk=False,
        )
    )
    replace = normalizers.Replace(" ", SPACE)
    back: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if pieces.space_prefix:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace])
        back.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = replace
    if pieces.triples:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    tokenizer.decoder = decoders.Sequence(back)
    # `normalized=False`: they are found in the text as it stands, before spaces are replaced.
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in symbols])
    return tokenizer
