"""The same tokenizer for transformers: `tokenizer.json` out of the pieces of a SentencePiece model, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.chat.markup import CHAT_TEMPLATE, ROLES, TURN_END, TURN_START
from components.vocabulary.pieces import CONTROL, UNKNOWN, Pieces, read_pieces, twin
from components.vocabulary.spelling import BEGIN_ID, END_ID, PADDING_ID, UNKNOWN_ID

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer

# Always one token, never merged with their neighbours, so that a ChatML turn costs five tokens beside its content.
SYMBOLS = (TURN_START, TURN_END, "\n", *ROLES)


def write_twin(model: bytes, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and chat_template.jinja into `folder`."""
    pieces = read_pieces(model)
    special = _special(pieces)
    tokenizer = twin(pieces, special, [text for text in pieces.texts if text in SYMBOLS and text not in special])
    names = {
        "bos_token": pieces.texts[BEGIN_ID],
        "eos_token": pieces.texts[END_ID],
        "unk_token": pieces.texts[UNKNOWN_ID],
        "pad_token": pieces.texts[PADDING_ID],
    }
    write_files(tokenizer, names, folder)


def _special(pieces: Pieces) -> list[str]:
    """What stands for no text: marks of SentencePiece and of turns."""
    marks = {*pieces.of_types(CONTROL, UNKNOWN), TURN_START, TURN_END}
    return [text for text in pieces.texts if text in marks]


def write_files(tokenizer: Tokenizer, names: dict[str, str], folder: Path) -> None:
    """Write what transformers reads: the tokenizer, with its begin token before each text, and its configuration.

    names: bos_token, eos_token, pad_token and, where there is one, unk_token.
    """
    from tokenizers import processors

    begin = names["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, tokenizer.token_to_id(begin))]
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    # As transformers 4 and the official GGUF converter read them: those that no rule spells come first.
    added = sorted(tokenizer.get_added_tokens_decoder().items(), key=lambda item: (not item[1].special, item[0]))
    names = {**names, "additional_special_tokens": [TURN_START, TURN_END]}  # type: ignore[dict-item]
    _write_json(folder / "special_tokens_map.json", names)
    _write_json(
        folder / "tokenizer_config.json",
        {
            # Readers of transformers 4 and the official GGUF converter rely on each of these.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"],
            "added_tokens_decoder": {
                str(token): {
                    "content": one.content,
                    "lstrip": one.lstrip,
                    "normalized": one.normalized,
                    "rstrip": one.rstrip,
                    "single_word": one.single_word,
                    "special": one.special,
                }
                for token, one in added
            },
            "chat_template": CHAT_TEMPLATE,
            **names,
        },
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def check_twin(processor: SentencePieceProcessor, folder: Path, texts: Iterable[str]) -> None:
    """Stop where the two tokenizers give different ids for one of `texts`: a defect, not a mistake of the user."""
    from tokenizers import Tokenizer

    twin = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts:
        ids = twin.encode(text, add_special_tokens=False).ids
        assert ids == processor.encode(text), f"tokenizer.json and tokenizer.model differ on {text!r}"


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
