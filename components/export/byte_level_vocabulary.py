"""A tokenizer of BPE over bytes (GPT-2's kind) as GGUF holds it: tokens, merges and the name of the rule that cuts words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.chat.markup import CHAT_TEMPLATE, TURN_END
from components.errors import InkwellError
from components.vocabulary.pre_tokenizers import NAMES, name_of
from components.vocabulary.spelling import is_byte_level

if TYPE_CHECKING:
    from gguf import GGUFWriter


@dataclass(frozen=True)
class ByteLevelVocabulary:
    """Tokens by id with llama.cpp's types (`gguf.TokenType`); `merges` are "left right", the first to merge first.

    rule: `tokenizer.ggml.pre`; begin, end, padding, turn_end: ids; unknown: an id or None.
    """

    tokens: list[str]
    types: list[int]
    merges: list[str]
    rule: str
    begin: int
    end: int
    padding: int
    turn_end: int
    unknown: int | None


def has_byte_level_vocabulary(folder: Path) -> bool:
    """Whether the tokenizer of a model folder is of this kind; the other kind is SentencePiece's."""
    return is_byte_level(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))


def read_byte_level_vocabulary(folder: Path, size: int) -> ByteLevelVocabulary:
    """The tokenizer of a model folder; ids beyond it, up to the model's `size`, become unused placeholders.

    Tokens that transformers treats as special are CONTROL, so that a user's text never turns into a marker; those that are
    found in a text as a whole are USER_DEFINED. Raises InkwellError for what llama.cpp has no rule for.
    """
    from gguf import TokenType
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(path))
    rule = name_of(state)
    if rule is None:
        raise InkwellError(
            f"{path} cuts text by a rule that is not known by a name of llama.cpp ({', '.join(NAMES)} are): "
            "leave export.formats empty."
        )
    # Documents are checked to come back as they were, so composing characters (NFC) changes none of them.
    normalizer = (state.get("normalizer") or {"type": "NFC"})["type"]
    if normalizer != "NFC":
        raise InkwellError(f"{path} rewrites text ({normalizer}), which GGUF cannot hold: leave export.formats empty.")
    by_id = {token: text for text, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    if max(by_id) >= size:
        raise InkwellError(f"{path} has ids up to {max(by_id)}, but the model beside it only {size} rows.")
    added = tokenizer.get_added_tokens_decoder()
    tokens, types = [], []
    for token in range(size):
        tokens.append(by_id.get(token, f"[PAD{token}]"))
        if token not in by_id:
            kind = TokenType.UNUSED
        elif token in added:
            kind = TokenType.CONTROL if added[token].special else TokenType.USER_DEFINED
        else:
            kind = TokenType.NORMAL
        types.append(int(kind))
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    begin, end, padding = (_named(tokenizer, config, name, path) for name in ("bos_token", "eos_token", "pad_token"))
    turn_end = tokenizer.token_to_id(TURN_END)
    if turn_end is None:
        raise InkwellError(f"{path} has no token {TURN_END}: run the tokenizer step again.")
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    unknown = tokenizer.token_to_id(config["unk_token"]) if config.get("unk_token") else None
    return ByteLevelVocabulary(tokens, types, merges, rule, begin, end, padding, turn_end, unknown)


def _named(tokenizer: Any, config: dict[str, Any], name: str, path: Path) -> int:
    token = config.get(name)
    found = None if token is None else tokenizer.token_to_id(token)
    if found is None:
        raise InkwellError(f"{path.with_name('tokenizer_config.json')} names no {name}: run the tokenizer step again.")
    return int(found)


def add_byte_level_vocabulary(writer: GGUFWriter, vocabulary: ByteLevelVocabulary) -> None:
    """Write the vocabulary, its marks and the chat template into a file's metadata."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.rule)
    writer.add_token_list([token.encode() for token in vocabulary.tokens])
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.begin)
    writer.add_eos_token_id(vocabulary.end)
    if vocabulary.unknown is not None:
        writer.add_unk_token_id(vocabulary.unknown)
    writer.add_pad_token_id(vocabulary.padding)
    writer.add_eot_token_id(vocabulary.turn_end)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
