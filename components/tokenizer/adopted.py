"""The tokenizer of the model that is trained further (`pretrain.initial`), in the form that every later step reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from components.atomic import atomic_folder
from components.chat.markup import TURN_END, TURN_START
from components.errors import InkwellError
from components.fetching.models import Located, locate
from components.tokenizer.continued import extend
from components.tokenizer.twin import write_files
from components.vocabulary.pieces import NORMAL, USER_DEFINED, read_pieces, with_more
from components.vocabulary.source import SourceTokenizer, read_source
from components.vocabulary.spelling import RECORD, Vocabulary

if TYPE_CHECKING:
    from components.configuration import Pretrain, Tokenizer

_CHECKED = 2000  # texts of the sample that must come back as they were

# Marks of a text's end, as their makers call them, and marks that end a turn of a conversation.
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>")
_TURNS = (TURN_START, TURN_END, "<|eot_id|>", "<end_of_turn>", "<|end|>")


def write_adopted(
    contents: Iterable[str], parameters: Pretrain, settings: Tokenizer, seed: int, folder: Path
) -> list[str]:
    """Write `folder` from the tokenizer of `parameters.initial` and return the lines of `contents` that were looked at.

    With `extend_vocabulary` that many tokens are learned from these lines. Marks of turns are added where the tokenizer has
    none. settings: `sample_characters` and `character_coverage` are read. The files depend on contents, parameters and seed
    only. Raises InkwellError for a tokenizer that does not give every text back.
    """
    from components.tokenizer.train import sample_lines

    assert parameters.initial is not None
    located = locate(parameters.initial, parameters.initial_sha256)
    sample = list(sample_lines(contents, settings.sample_characters, seed))
    if not sample:
        raise InkwellError("The training split holds no text to look at: add documents.")
    source = read_source(located)
    kind = json.loads(source.backend.to_str())["model"]["type"]
    if kind != "BPE":
        raise InkwellError(
            f"{located.name} has a tokenizer of kind {kind}; models can be trained further whose tokenizer is BPE."
        )
    names = document_marks(source, located.name)
    marked = source.with_marks([names["bos_token"], names["eos_token"], TURN_START, TURN_END])
    backend, added = marked.backend, list[str]()
    if parameters.extend_vocabulary:
        backend.encode_special_tokens = True  # what looks like a mark is text here
        pieces = read_pieces(source.model) if source.model else None
        backend, added = extend(backend, sample, parameters.extend_vocabulary, settings.character_coverage, pieces)
    with atomic_folder(folder) as temporary:
        write_files(backend, names, temporary)
        _check(temporary, sample[:_CHECKED], located.name)
        if source.model:
            _write_model(source.model, temporary, sample[:_CHECKED])
        record = {
            "model": located.name,
            "sha256": located.sha256,
            "vocabulary": source.backend.get_vocab_size(with_added_tokens=True),
            "added_tokens": len(added),
            "license": _license(located),
        }
        (temporary / RECORD).write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return sample


def document_marks(source: SourceTokenizer, name: str) -> dict[str, str]:
    """What begins and ends a document and fills up rows, under transformers' names (bos_token, eos_token, pad_token, unk_token).

    A model that was taught to converse often calls the marks of its turns begin and end of text; then the mark of a text's
    end that it read before is taken, for both. Raises InkwellError where there is none.
    """
    there = source.backend.get_vocab(with_added_tokens=True)
    read_before = [mark for mark in _ENDS if mark in there]
    end = next((mark for mark in (source.end, *read_before, source.begin) if mark and mark not in _TURNS), None)
    if end is None:
        raise InkwellError(
            f"{name} has no token for the end of a text (eos_token): name one in its tokenizer_config.json."
        )
    begin = source.begin if source.begin and source.begin not in _TURNS else end
    names = {"bos_token": begin, "eos_token": end, "pad_token": source.padding or end}
    return names | ({"unk_token": source.unknown} if source.unknown else {})


def _check(folder: Path, texts: list[str], name: str) -> None:
    """Raise InkwellError for a text that does not come back as it was."""
    vocabulary = Vocabulary(folder)
    for text, decoded in zip(texts, vocabulary.decode(vocabulary.encode(texts)), strict=True):
        if text != decoded:
            raise InkwellError(
                f"The tokenizer of {name} changes texts: {text[:60]!r} comes back as {decoded[:60]!r}; clean the text "
                "so that it does not (tag.unicode), or take another model."
            )


def _write_model(model: bytes, folder: Path, texts: list[str]) -> None:
    """Write `tokenizer.model`, with the tokens that it lacks, where it gives the same ids as the twin; nothing else would.

    GGUF needs it of SentencePiece's tokenizers; without it they export to Hugging Face folders only.
    """
    import sentencepiece

    pieces = read_pieces(model)
    vocabulary = Vocabulary(folder)
    by_id = {token: text for text, token in vocabulary.backend.get_vocab(with_added_tokens=True).items()}
    if pieces.texts != tuple(by_id.get(token) for token in range(len(pieces.texts))):
        return
    later = [(by_id[token], vocabulary.kinds[token]) for token in range(len(pieces.texts), vocabulary.size)]
    model = with_more(model, [(text, USER_DEFINED if kind != "text" else NORMAL) for text, kind in later])
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    if all(processor.encode(text) == ids for text, ids in zip(texts, vocabulary.encode(texts), strict=True)):
        (folder / "tokenizer.model").write_bytes(model)


def _license(located: Located) -> str | None:
    """What a GGUF file, or the model card of a folder, says of its licence."""
    if located.path.is_file():
        from components.gguf.metadata import read_license

        return read_license(located.path)
    import yaml

    card = located.path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.exists() else ""
    try:
        said = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else None
    except (yaml.YAMLError, IndexError):
        return None
    return str(said["license"]) if isinstance(said, dict) and said.get("license") else None
