"""The tokenizer that a GGUF file's metadata describe.

transformers' reading of it is not used: it knows neither every rule of cutting (`smollm` is read as GPT-2's) nor pieces
as SentencePiece merges them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError
from components.gguf.metadata import opened, value
from components.vocabulary import pre_tokenizers
from components.vocabulary.pieces import CONTROL, UNKNOWN, UNUSED, USER_DEFINED, Pieces, twin, write_model
from components.vocabulary.source import SourceTokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers import Tokenizer


def read_gguf_tokenizer(path: Path) -> SourceTokenizer:
    """The tokenizer of a file; raises InkwellError for one of another kind than BPE over bytes or SentencePiece's BPE."""
    reader = opened(path)
    kind = value(reader, "tokenizer.ggml.model", "none")
    tokens = [str(token) for token in value(reader, "tokenizer.ggml.tokens", [])]
    types = [int(one) for one in value(reader, "tokenizer.ggml.token_type", [1] * len(tokens))]
    while types and types[-1] == UNUSED:  # places of the embedding that no token uses
        tokens.pop()
        types.pop()
    names = {
        name: tokens[token]
        for name, key in (("begin", "bos"), ("end", "eos"), ("unknown", "unknown"), ("padding", "padding"))
        if (token := value(reader, f"tokenizer.ggml.{key}_token_id")) is not None and token < len(tokens)
    }
    model = None
    if kind == "gpt2":
        backend = _byte_level(path, reader, tokens, types)
    elif kind == "llama":
        scores = tuple(float(score) for score in value(reader, "tokenizer.ggml.scores", []))[: len(tokens)]
        prefix = bool(value(reader, "tokenizer.ggml.add_space_prefix", True))
        if len(scores) != len(tokens) or UNKNOWN not in types:
            raise InkwellError(f"{path.name} has no whole SentencePiece vocabulary: take its Hugging Face folder.")
        pieces = Pieces(tuple(tokens), scores, tuple(types), prefix)
        backend, model = (
            twin(pieces, pieces.of_types(CONTROL, UNKNOWN), pieces.of_types(USER_DEFINED)),
            write_model(pieces),
        )
    else:
        raise InkwellError(
            f"{path.name} has a tokenizer of kind {kind!r}; read are gpt2 and llama: take its Hugging Face folder."
        )
    return SourceTokenizer(backend, model=model, **names)


def _merges(reader: GGUFReader) -> list[str]:
    """Pairs of tokens with a space between, the first to merge first."""
    return list(value(reader, "tokenizer.ggml.merges", []))


def _byte_level(path: Path, reader: GGUFReader, tokens: list[str], types: list[int]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models

    name = str(value(reader, "tokenizer.ggml.pre", "default"))
    rule = pre_tokenizers.by_name(name)
    if rule is None:
        raise InkwellError(
            f"{path.name} cuts text by the rule {name!r} before it merges; known are {', '.join(pre_tokenizers.NAMES)}: "
            "take its Hugging Face folder."
        )
    merges = [(left, right) for left, _, right in (str(one).partition(" ") for one in _merges(reader))]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    try:
        backend = Tokenizer(
            models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre_tokenizers.whole_words_first(name))
        )
    except Exception as error:  # tokenizers raises nothing more exact: a merge of tokens that are not there
        raise InkwellError(f"{path.name} has a damaged vocabulary ({error}): fetch or copy it again.") from error
    backend.pre_tokenizer = rule
    backend.decoder = decoders.ByteLevel()
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        found = [
            AddedToken(token, special=special, normalized=False)
            for token, one in zip(tokens, types, strict=True)
            if one == kind
        ]
        if special:
            backend.add_special_tokens(found)
        else:
            backend.add_tokens(found)
    return backend
