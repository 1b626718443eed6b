"""Training of the SentencePiece model, and what is measured of it."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.atomic import atomic_folder
from components.errors import InkwellError
from components.tokenizer.twin import SYMBOLS
from components.vocabulary.digits import DIGITS, PAIRS, TRIPLES, with_triples
from components.vocabulary.spelling import BEGIN_ID, END_ID, PADDING_ID, UNKNOWN_ID, Vocabulary

if TYPE_CHECKING:
    from components.configuration import Tokenizer
    from components.step import Context

# SentencePiece drops lines that are longer than `max_sentence_length` bytes without counting them as an error; it gets
# pieces that are shorter. Four bytes is the longest character of UTF-8.
_PIECE_CHARACTERS = 4096

# SentencePiece writes the number of threads into the model: a fixed one keeps the file the same on every machine.
_THREADS = 4

_LINES_AT_ONCE = 10_000
SMALLEST_VOCABULARY = 300  # as in components.configuration: 256 bytes, special tokens and a few characters

# U+2585 is SentencePiece's own mark for unknown characters: it drops training lines that hold it. NUL ends a C string.
_UNFIT = re.compile("[\u2585\0]")


def run(context: Context) -> None:
    """The step: train on the training split, measure on the validation split, and write the report."""
    from components.corpus.documents import TRAIN, VALIDATION, clean_schema, iterate
    from components.tokenizer.report import write_report

    documents = context.inputs["documents"] / "documents.parquet"
    folder = context.outputs["tokenizer"]
    parameters = context.configuration.tokenizer
    rows = iterate(documents, clean_schema(), ["content", "language", "split"])
    pairs = [(row["content"], row["language"] or "und") for row in rows if row["split"] == VALIDATION]
    if not pairs:
        raise InkwellError(
            f"{documents} holds no {VALIDATION} documents: add documents or raise clean.validation_fraction."
        )
    held_out, languages = [text for text, _ in pairs], [language for _, language in pairs]
    train, pretrain = Contents(documents, TRAIN), context.configuration.pretrain
    if pretrain.initial is None:
        sample = write_tokenizer(train, parameters, context.seed, folder)
    else:
        from components.tokenizer.adopted import write_adopted

        sample = write_adopted(train, pretrain, parameters, context.seed, folder)
    counts = count_tokens(folder, sample)
    context.metrics.update(describe(folder, sample, counts))
    context.metrics.update(measure(folder, held_out))
    context.metrics.update(
        write_report(context.outputs["report"], folder, counts, sum(map(len, sample)), held_out, languages, parameters)
    )


class Contents:
    """`content` of the clean documents of one split, read anew each time they are gone through: memory holds a batch."""

    def __init__(self, documents: Path, split: str) -> None:
        self._documents, self._split = documents, split

    def __iter__(self) -> Iterator[str]:
        from components.corpus.documents import clean_schema, iterate

        rows = iterate(self._documents, clean_schema(), ["content", "split"])
        return (row["content"] for row in rows if row["split"] == self._split)


def train_tokenizer(contents: Iterable[str], parameters: Tokenizer, seed: int, folder: Path) -> dict[str, float]:
    """Train, write `folder` (`write_tokenizer`) and return the figures of `describe`."""
    sample = write_tokenizer(contents, parameters, seed, folder)
    return describe(folder, sample, count_tokens(folder, sample))


def write_tokenizer(contents: Iterable[str], parameters: Tokenizer, seed: int, folder: Path) -> list[str]:
    """Train on `contents`, which are gone through twice, and write `folder` (tokenizer.model, tokenizer.json and what transformers reads beside it).

    Returns the lines that were trained on. The files depend on contents, parameters and seed only. Raises InkwellError
    where the text does not allow the vocabulary that was asked for.
    """
    import sentencepiece

    from components.tokenizer.twin import check_twin, write_twin

    sample = list(sample_lines(contents, parameters.sample_characters, seed))
    if not sample:
        raise InkwellError("The training split holds no text to train a tokenizer on: add documents.")
    model = _train(sample, parameters)
    if parameters.digits == "triples":
        model = with_triples(model)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    with atomic_folder(folder) as temporary:
        (temporary / "tokenizer.model").write_bytes(model)
        write_twin(model, temporary)
        check_twin(processor, temporary, sample[:2000])
    return sample


def count_tokens(folder: Path, sample: Sequence[str]) -> np.ndarray[Any, Any]:
    """How often each token occurs in the encoded sample; shape [vocabulary], int64."""
    return _count(Vocabulary(folder), sample)


def _count(vocabulary: Vocabulary, texts: Sequence[str]) -> np.ndarray[Any, Any]:
    counts = np.zeros(vocabulary.size, dtype=np.int64)
    for start in range(0, len(texts), _LINES_AT_ONCE):
        found = vocabulary.encode(texts[start : start + _LINES_AT_ONCE])
        ids = np.fromiter((token for one in found for token in one), dtype=np.int64)
        counts += np.bincount(ids, minlength=len(counts))
    return counts


def describe(folder: Path, sample: Sequence[str], counts: np.ndarray[Any, Any]) -> dict[str, float]:
    """`vocabulary`, `sampled_characters` (what was trained on) and `unused_tokens`: learned tokens that the sample never uses.

    Learned are all but bytes, special ones and, where numbers are cut into threes, the pairs and triples of digits.
    """
    learned = learned_tokens(folder)
    return {
        "vocabulary": len(counts),
        "sampled_characters": sum(map(len, sample)),
        "unused_tokens": int((counts[learned] == 0).sum()),
    }


def learned_tokens(folder: Path) -> list[int]:
    """The tokens that training found in a text, by id."""
    vocabulary = Vocabulary(folder)
    spelled = vocabulary.spelled
    digits = {text.encode() for text in PAIRS + TRIPLES}
    given = digits if digits <= set(spelled) else set()
    if vocabulary.byte_level:
        given |= {bytes([byte]) for byte in range(256)}
    return [token for token in vocabulary.of_kind("text") if spelled[token] not in given]


def measure(folder: Path, contents: Sequence[str]) -> dict[str, float]:
    """What held-out text costs: `tokens_per_character`, and `characters_covered`, the share not spelled in bytes."""
    vocabulary = Vocabulary(folder)
    counts = _count(vocabulary, contents)
    whole = np.zeros(vocabulary.size, dtype=np.int64)  # characters that a token spells
    for token in vocabulary.of_kind("text", "symbol"):
        whole[token] = len(vocabulary.spelled[token].decode())
    characters = max(1, sum(map(len, contents)))
    return {
        "tokens_per_character": int(counts.sum()) / characters,
        "characters_covered": int(counts @ whole) / characters,
    }


def sample_lines(contents: Iterable[str], limit: int, seed: int) -> Iterator[str]:
    """Lines of `contents`, long ones in parts; where all would be more than `limit` characters, a random share.

    `contents` are gone through twice. Lines are drawn one by one, not document by document, so that a corpus of a few very long texts is sampled evenly.
    """
    total = sum(map(len, contents))
    share = min(1.0, limit / max(1, total))
    generator = random.Random(seed)
    left = limit
    for text in contents:
        for line in _UNFIT.sub("\n", text).split("\n"):
            for part in _parts(line):
                if share < 1 and generator.random() >= share:
                    continue
                if len(part) > left:
                    return
                left -= len(part)
                yield part


def _parts(line: str) -> Iterator[str]:
    """A line in parts of at most `_PIECE_CHARACTERS`, cut before a space where there is one."""
    start = 0
    while len(line) - start > _PIECE_CHARACTERS:
        end = line.rfind(" ", start + 1, start + _PIECE_CHARACTERS)
        end = end if end > start else start + _PIECE_CHARACTERS
        yield line[start:end]
        start = end
    if start < len(line):
        yield line[start:]


def _train(sample: Sequence[str], parameters: Tokenizer) -> bytes:
    """The bytes of a SentencePiece model."""
    import sentencepiece

    written = io.BytesIO()
    triples = parameters.digits == "triples"
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sample),
            model_writer=written,
            model_type="bpe",
            vocab_size=parameters.vocabulary - _given(parameters),
            character_coverage=parameters.character_coverage,
            byte_fallback=True,
            split_digits=parameters.digits != "whole",
            # SentencePiece's space. Without a piece of its own it would be spelled in bytes, and decode to U+2581.
            required_chars="\u2581" + (DIGITS if triples else ""),
            # Normalising is the work of the clean step; here every character counts, spaces included.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            user_defined_symbols=list(SYMBOLS),
            unk_id=UNKNOWN_ID,
            bos_id=BEGIN_ID,
            eos_id=END_ID,
            pad_id=PADDING_ID,
            max_sentence_length=4 * _PIECE_CHARACTERS,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InkwellError(_explain(str(error), parameters)) from error
    return written.getvalue()


def _given(parameters: Tokenizer) -> int:
    """Tokens of the vocabulary that are added after training."""
    return len(PAIRS) + len(TRIPLES) if parameters.digits == "triples" else 0


def _explain(message: str, parameters: Tokenizer) -> str:
    """SentencePiece's refusal as a sentence that names the parameter."""
    given = _given(parameters)
    if found := re.search(r"Vocabulary size too high \((\d+)\).*?<= ?(\d+)", message):
        if int(found[2]) < SMALLEST_VOCABULARY:
            return (
                f"This text is too small for a tokenizer: it allows tokenizer.vocabulary = {int(found[2]) + given}, "
                f"the smallest is {SMALLEST_VOCABULARY + given}; add documents."
            )
        return (
            f"tokenizer.vocabulary = {parameters.vocabulary} is more than this text allows: set it to at most "
            f"{int(found[2]) + given}, or add documents."
        )
    if found := re.search(r"smaller than required_chars\. (\d+) vs (\d+)", message):
        return (
            f"tokenizer.vocabulary = {parameters.vocabulary} has no room for the characters of this text: set it to at "
            f"least {int(found[2]) + 1 + given}, or lower tokenizer.character_coverage (now {parameters.character_coverage})."
        )
    return f"SentencePiece cannot train on this text with tokenizer.vocabulary = {parameters.vocabulary}: {' '.join(message.split())}"
