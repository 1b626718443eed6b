"""The tokenizer of a model that is trained further, as it came."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from components.fetching.models import Located


@dataclass(frozen=True)
class SourceTokenizer:
    """`backend` encodes; the others are the tokens that it names, and its SentencePiece file where it has one."""

    backend: Tokenizer
    begin: str | None = None
    end: str | None = None
    unknown: str | None = None
    padding: str | None = None
    model: bytes | None = None

    def with_marks(self, marks: Iterable[str]) -> SourceTokenizer:
        """The same with these as special tokens; those that it lacks get the ids after all that are there.

        Every token that is searched for also stands in the vocabulary of the model inside: `tokenizers` numbers those that
        do not stand there anew when it reads the file, by the vocabulary's size, which further tokens change.
        """
        from tokenizers import Tokenizer

        state = json.loads(self.backend.to_str())
        vocabulary, added = state["model"]["vocab"], {one["content"]: one for one in state["added_tokens"]}
        vocabulary.update({content: one["id"] for content, one in added.items()})
        for mark in marks:
            number = vocabulary.setdefault(mark, 1 + max(vocabulary.values()))
            plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
            added.setdefault(mark, {"id": number, "content": mark, **plain})["special"] = True
        state["added_tokens"] = sorted(added.values(), key=lambda one: one["id"])
        return replace(self, backend=Tokenizer.from_str(json.dumps(state)))


def read_source(located: Located) -> SourceTokenizer:
    """The tokenizer of a model: a Hugging Face folder or a GGUF file."""
    if located.path.is_dir():
        return read_tokenizer(located.path)
    from components.gguf.tokenizer import read_gguf_tokenizer

    return read_gguf_tokenizer(located.path)


def read_tokenizer(folder: Path) -> SourceTokenizer:
    """The tokenizer of a Hugging Face folder; no code of the folder runs.

    Where `tokenizer_config.json` names no begin or end token, `config.json` does. Raises InkwellError where there is no
    tokenizer, or one that `tokenizers` cannot hold.
    """
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    kind = PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else AutoTokenizer
    try:
        found = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of every kind: files that are missing, damaged, or of a class that is not known
        raise InkwellError(f"{folder.name} holds no tokenizer that can be read ({said(error, folder)}).") from error
    if (folder / "tokenizer.json").exists():
        # As the file has it: transformers adds tokens that the configuration names and the model has no row for.
        backend: Tokenizer | None = Tokenizer.from_file(str(folder / "tokenizer.json"))
    else:
        backend = getattr(found, "backend_tokenizer", None)
    if backend is None:
        raise InkwellError(f"{folder.name}: its tokenizer has no tokenizer.json, and none can be made of it.")
    backend.no_truncation()
    backend.no_padding()
    config = _json(folder / "config.json")

    def named(name: str) -> str | None:
        token = getattr(found, name)
        if token is None:
            number = config.get(f"{name}_id")
            number = number[0] if isinstance(number, list) and number else number
            token = backend.id_to_token(number) if isinstance(number, int) else None
        return str(token) if token is not None and backend.token_to_id(str(token)) is not None else None

    model = folder / "tokenizer.model"
    return SourceTokenizer(
        backend,
        begin=named("bos_token"),
        end=named("eos_token"),
        unknown=named("unk_token"),
        padding=named("pad_token"),
        model=model.read_bytes() if model.exists() else None,
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def said(error: Exception, folder: Path) -> str:
    """The beginning of what a library complained of, without the path of `folder`."""
    return " ".join(str(error).replace(str(folder), folder.name).split())[:200] or type(error).__name__
