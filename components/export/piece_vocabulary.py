"""A tokenizer of SentencePiece's pieces as GGUF holds it: tokens with scores and types. And which kind a folder has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.chat.markup import CHAT_TEMPLATE, TURN_END
from components.errors import InkwellError
from components.export.byte_level_vocabulary import (
    add_byte_level_vocabulary,
    has_byte_level_vocabulary,
    read_byte_level_vocabulary,
)
from components.model.folders import load_tokenizer
from components.vocabulary.pieces import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, read_pieces

if TYPE_CHECKING:
    from gguf import GGUFWriter

_UNUSED_SCORE = -10000.0


@dataclass(frozen=True)
class PieceVocabulary:
    """Pieces by id, with SentencePiece's scores and llama.cpp's token types (`components.vocabulary.pieces`).

    marks: ids of bos, eos, unk, pad and eot, as far as the tokenizer has them; space_prefix: a space is put before texts.
    """

    pieces: list[str]
    scores: list[float]
    types: list[int]
    marks: dict[str, int]
    space_prefix: bool


def vocabulary_of(folder: Path, size: int) -> Callable[[GGUFWriter], None]:
    """What adds the tokenizer of a model folder, of a model with `size` tokens, to a file's metadata.

    It is read and checked here: InkwellError, before anything is written, for a tokenizer that GGUF cannot hold.
    """
    if (folder / "tokenizer.json").exists() and has_byte_level_vocabulary(folder):
        bytes_vocabulary = read_byte_level_vocabulary(folder, size)
        return lambda writer: add_byte_level_vocabulary(writer, bytes_vocabulary)
    vocabulary = read_piece_vocabulary(folder, size)
    return lambda writer: add_piece_vocabulary(writer, vocabulary)


def read_piece_vocabulary(folder: Path, size: int) -> PieceVocabulary:
    """The tokenizer of a model folder as llama.cpp's SentencePiece tokenizer ("llama") wants it.

    `size` is the model's: ids beyond the tokenizer's become unused placeholders. Tokens that transformers treats as
    special are CONTROL, whatever SentencePiece calls them, so that a user's text never turns into a marker.
    """
    source = folder / "tokenizer.model"
    if not source.exists():
        raise InkwellError(
            f"{source} does not exist: GGUF needs the SentencePiece file; run the tokenizer step again, or leave "
            "export.formats empty."
        )
    found = read_pieces(source.read_bytes())
    count = len(found.texts)
    if count > size:
        raise InkwellError(
            f"{source} has {count} tokens, but the model beside it only {size}: they do not belong together."
        )
    tokenizer = load_tokenizer(folder)
    special = {token: one.special for token, one in tokenizer.added_tokens_decoder.items()}
    types = []
    for token, kind in enumerate(found.types):
        if kind in (UNKNOWN, BYTE):
            types.append(kind)
        elif kind == CONTROL or special.get(token):
            types.append(CONTROL)
        else:
            types.append(USER_DEFINED if token in special else NORMAL)
    named = {"bos": "bos_token", "eos": "eos_token", "unk": "unk_token", "pad": "pad_token"}
    marks: dict[str, int] = {}
    for mark, name in named.items():
        text = getattr(tokenizer, name)
        if text in found.texts:
            marks[mark] = found.texts.index(text)
        elif mark in ("bos", "eos"):
            raise InkwellError(f"{source} has no {name} {text!r}: run the tokenizer step again.")
    if TURN_END not in found.texts:
        raise InkwellError(f"{source} has no token {TURN_END}: run the tokenizer step again.")
    marks["eot"] = found.texts.index(TURN_END)
    unused = range(count, size)
    return PieceVocabulary(
        [*found.texts, *(f"[PAD{token}]" for token in unused)],
        [*found.scores, *(_UNUSED_SCORE for _ in unused)],
        [*types, *(UNUSED for _ in unused)],
        marks,
        found.space_prefix,
    )


def add_piece_vocabulary(writer: GGUFWriter, vocabulary: PieceVocabulary) -> None:
    """Write the vocabulary, its marks and the chat template into a file's metadata."""
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([piece.encode() for piece in vocabulary.pieces])
    writer.add_token_scores(vocabulary.scores)
    writer.add_token_types(vocabulary.types)
    for mark, token in vocabulary.marks.items():
        getattr(writer, f"add_{mark}_token_id")(token)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    writer.add_chat_template(CHAT_TEMPLATE)
