"""A trained tokenizer as its file `tokenizer.json` tells it: what each token spells, and of what kind it is.

Two families are read: pieces with byte fallback (SentencePiece), where a token of a byte is written `<0x0A>`, and BPE
over bytes (GPT-2, Radford et al. 2019), where every byte is written as a letter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from components.errors import InkwellError

# special: stands for no text; symbol: text that is found as a whole before anything is cut; text: whole characters;
# part: bytes that are no whole character, or the fallback of a character without a token
Kind = Literal["special", "symbol", "text", "part"]

# Ids of the marks in tokenizers that are trained here; those of other makers are read (`Vocabulary`).
UNKNOWN_ID, BEGIN_ID, END_ID, PADDING_ID = 0, 1, 2, 3

RECORD = "initial.json"  # in a tokenizer folder: of which model its tokenizer is, where it was not trained

FROM_NOTHING = "trained from nothing"

_SPACE = "\u2581"  # what SentencePiece writes for a space
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


def identity(folder: Path) -> Path:
    """The file whose hash tells one tokenizer from another: `tokenizer.model` where there is one, else `tokenizer.json`.

    Raises InkwellError where the folder holds no tokenizer.
    """
    for name in ("tokenizer.model", "tokenizer.json"):
        if (folder / "tokenizer.json").exists() and (folder / name).exists():
            return folder / name
    raise InkwellError(f"{folder} holds no tokenizer.json: run the tokenizer step first.")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What the tokenizer step noted of the model whose tokenizer it took; None where it trained one.

    model: its name, without paths of a machine; sha256: of what `pretrain.initial` names; vocabulary: tokens it had;
    added_tokens: learned from the corpus; license: as the file states it, or null.
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def origin(folder: Path) -> str:
    """Where the weights beside this tokenizer began, as a model card says it: "trained from nothing" or of what."""
    record = read_record(folder)
    if record is None:
        return FROM_NOTHING
    more = f", with {record['added_tokens']:,} further tokens" if record["added_tokens"] else ""
    license = f", licence {record['license']}" if record["license"] else ""
    return f"trained further from {record['model']} (sha256 `{record['sha256']}`{license}){more}"


def letters_of_bytes() -> dict[str, int]:
    """The letter that stands for each byte in BPE over bytes: most for themselves, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    rest = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + number): byte for number, byte in enumerate(rest)}


class Vocabulary:
    """The tokenizer of a folder. `size` counts ids; `spelled` (bytes) and `kinds` are by id.

    `begin` and `end` are the ids that stand around every document. An id that the tokenizer does not use is "special" and
    spells nothing. Raises InkwellError where a file is missing or the tokenizer is of neither family.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.exists():
            raise InkwellError(f"{folder} holds no tokenizer.json: run the tokenizer step first.")
        self.backend = Tokenizer.from_file(str(path))
        self.backend.no_truncation()
        self.backend.no_padding()
        # A marker that stands in a text is text: it is spelled, so that it comes back as it was.
        self.backend.encode_special_tokens = True
        state = json.loads(self.backend.to_str())
        self.byte_level = is_byte_level(state)
        if state["model"]["type"] != "BPE":
            raise InkwellError(f"{path}: a tokenizer of kind {state['model']['type']} is not read here, only BPE is.")
        self.begin, self.end = (self._named(folder, name) for name in ("bos_token", "eos_token"))
        ids: dict[str, int] = self.backend.get_vocab(with_added_tokens=True)
        self.size = 1 + max(ids.values())
        self.spelled: list[bytes] = [b""] * self.size
        self.kinds: list[Kind] = ["special"] * self.size
        letters = letters_of_bytes()
        for piece, token in ids.items():
            if self.byte_level:
                self.spelled[token] = bytes(letters[letter] for letter in piece if letter in letters)
                self.kinds[token] = "text" if whole(self.spelled[token]) else "part"
            elif found := _BYTE.fullmatch(piece):
                self.spelled[token], self.kinds[token] = bytes([int(found[1], 16)]), "part"
            else:
                self.spelled[token], self.kinds[token] = piece.replace(_SPACE, " ").encode(), "text"
        for token, added in self.backend.get_added_tokens_decoder().items():
            self.spelled[token] = b"" if added.special else added.content.encode()
            self.kinds[token] = "special" if added.special else "symbol"

    def _named(self, folder: Path, name: str) -> int:
        path = folder / "tokenizer_config.json"
        try:
            token = self.backend.token_to_id(json.loads(path.read_text(encoding="utf-8"))[name])
        except (OSError, ValueError, KeyError, TypeError):
            token = None
        if token is None:
            raise InkwellError(f"{path} names no {name} of its tokenizer: run the tokenizer step again.")
        return int(token)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without begin and end tokens."""
        return [found.ids for found in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The texts that ids spell."""
        texts: list[str] = self.backend.decode_batch([list(one) for one in ids], skip_special_tokens=False)
        return texts

    def of_kind(self, *kinds: Kind) -> list[int]:
        """Ids of tokens of these kinds."""
        return [token for token, kind in enumerate(self.kinds) if kind in kinds]


def is_byte_level(state: dict[str, Any]) -> bool:
    """Whether the object in a `tokenizer.json` is of a BPE over bytes."""
    decoder = state.get("decoder") or {}
    return any(one.get("type") == "ByteLevel" for one in decoder.get("decoders", [decoder]))


def whole(spelled: bytes) -> bool:
    """Whether bytes are whole characters."""
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return False
    return True
