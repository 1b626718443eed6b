"""Encoding in several processes; what comes back is written in the order of the documents."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.errors import InkwellError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from sentencepiece import SentencePieceProcessor

    from components.configuration import Tokenize
    from components.step import Context

_BATCH_CHARACTERS = 400_000  # a batch is what one process gets at a time; it bounds memory
_BATCH_DOCUMENTS = 4_000


@dataclass(frozen=True)
class Batch:
    """Documents that are encoded together."""

    ids: tuple[str, ...]
    splits: tuple[str, ...]
    repeats: tuple[int, ...]  # how often an epoch reads each
    contents: tuple[str, ...]


@dataclass(frozen=True)
class Encoded:
    """Token ids of a batch, one document after the other; `lengths` are tokens a document, marks included."""

    splits: tuple[str, ...]
    repeats: tuple[int, ...]
    characters: tuple[int, ...]
    lengths: NDArray[np.int64]
    tokens: NDArray[np.unsignedinteger]


def run(context: Context) -> None:
    """The step: every clean document to `data/tokens`."""
    context.metrics.update(
        encode_corpus(
            context.inputs["documents"] / "documents.parquet",
            context.inputs["tokenizer"],
            context.outputs["tokens"],
            context.configuration.tokenize,
        )
    )


def encode_corpus(documents: Path, tokenizer_folder: Path, folder: Path, parameters: Tokenize) -> dict[str, float]:
    """Encode all documents into `folder` (layout: components.corpus.packed) and return the figures of both splits.

    Each document becomes [begin, ..., end], in file order, `repeats` times; the files do not depend on the number of processes.
    Raises InkwellError naming the document that does not decode to itself, and where a split is empty.
    """
    from components.atomic import atomic_folder
    from components.corpus import packed
    from components.corpus.documents import TRAIN, VALIDATION, batches, clean_schema, read_table
    from components.progress import bar
    from components.step import content_hash
    from components.vocabulary.spelling import identity

    model = identity(tokenizer_folder)
    total = len(read_table(documents, clean_schema(), ["repeats"]))
    chunks = batches(documents, clean_schema(), ["id", "split", "repeats", "content"], _BATCH_DOCUMENTS)
    vocabulary = _Codec(tokenizer_folder).vocabulary
    workers = parameters.workers or os.cpu_count() or 1
    with atomic_folder(folder) as temporary:
        writers = {
            split: packed.ShardWriter(temporary, split, packed.token_type(vocabulary), parameters.shard_tokens)
            for split in (TRAIN, VALIDATION)
        }
        with bar("encode", total) as shown:
            for encoded in _encode(_batches(chunks), tokenizer_folder, workers):
                start = 0
                for split, repeats, characters, length in zip(
                    encoded.splits, encoded.repeats, encoded.characters, encoded.lengths.tolist(), strict=True
                ):
                    if split not in writers:
                        raise InkwellError(
                            f"{documents} has a document of split {split!r}, expected {TRAIN} or {VALIDATION}: run clean again."
                        )
                    for _ in range(repeats):
                        writers[split].add(encoded.tokens[start : start + length], characters)
                    start += length
                shown.advance(len(encoded.splits))
        summaries = {split: writer.close() for split, writer in writers.items()}
        for split, summary in summaries.items():
            if not summary.documents:
                raise InkwellError(
                    f"{documents} holds no {split} documents: the corpus is too small for clean.validation_fraction; "
                    "add documents or change that parameter."
                )
        packed.write_meta(temporary, vocabulary, content_hash(model), summaries)
    metrics: dict[str, float] = {"vocabulary": vocabulary}
    for split, summary in summaries.items():
        metrics[f"{split}_documents"] = summary.documents
        metrics[f"{split}_tokens"] = summary.tokens
        metrics[f"{split}_characters"] = summary.characters
        metrics[f"{split}_tokens_per_character"] = summary.tokens / max(1, summary.characters)
        metrics[f"{split}_longest_document_tokens"] = summary.longest
    return metrics


class _Codec:
    """The tokenizer of a folder. Where it has a SentencePiece file too, that decodes what the other encodes, and must agree."""

    def __init__(self, folder: Path) -> None:
        from components.vocabulary.spelling import Vocabulary

        self.tokens = Vocabulary(folder)
        self.vocabulary = self.tokens.size
        self.oracle: SentencePieceProcessor | None = None
        if (folder / "tokenizer.model").exists():
            import sentencepiece

            self.oracle = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))

    def encode(self, batch: Batch) -> Encoded:
        """Ids of a batch; every document is checked."""
        import numpy as np

        from components.chat.markup import SPECIAL_TEXTS
        from components.corpus.packed import token_type

        contents = list(batch.contents)
        all_ids = self.tokens.encode(contents)
        if self.oracle is None:
            oracle, decoded = all_ids, self.tokens.decode(all_ids)
        else:
            oracle = self.oracle.encode(contents, num_threads=1)
            decoded = self.oracle.decode(oracle, num_threads=1)
        for name, content, ids, expected, text in zip(batch.ids, contents, all_ids, oracle, decoded, strict=True):
            for marker in SPECIAL_TEXTS:
                if marker in content:
                    raise InkwellError(
                        f"Document {name} holds the marker {marker!r} as text, which a model would read as a command: run clean again, it escapes markers."
                    )
            if text != content:
                raise InkwellError(
                    f"Document {name} does not survive the tokenizer: {_difference(content, text)}; replace that character in the source."
                )
            assert ids == expected, f"tokenizer.json and tokenizer.model differ on document {name}"
        lengths = np.array([len(ids) + 2 for ids in all_ids], dtype=np.int64)
        tokens = np.fromiter(
            (token for ids in all_ids for token in (self.tokens.begin, *ids, self.tokens.end)),
            dtype=token_type(self.vocabulary),
            count=int(lengths.sum()),
        )
        return Encoded(batch.splits, batch.repeats, tuple(map(len, contents)), lengths, tokens)


def _difference(content: str, decoded: str) -> str:
    """Where two strings first differ."""
    at = next(
        (i for i, (a, b) in enumerate(zip(content, decoded, strict=False)) if a != b), min(len(content), len(decoded))
    )
    before = f"U+{ord(content[at]):04X}" if at < len(content) else "its end"
    after = f"U+{ord(decoded[at]):04X}" if at < len(decoded) else "the end"
    return f"character {at} is {before} and comes back as {after}"


def _batches(chunks: Iterable[pa.RecordBatch]) -> Iterator[Batch]:
    """Documents in batches of bounded size."""
    ids: list[str] = []
    splits: list[str] = []
    repeats: list[int] = []
    contents: list[str] = []
    size = 0
    for chunk in chunks:
        columns = (chunk.column(name).to_pylist() for name in ("id", "split", "repeats", "content"))
        for name, split, times, content in zip(*columns, strict=True):
            ids.append(name)
            splits.append(split)
            repeats.append(times)
            contents.append(content or "")
            size += len(contents[-1])
            if size >= _BATCH_CHARACTERS or len(ids) >= _BATCH_DOCUMENTS:
                yield Batch(tuple(ids), tuple(splits), tuple(repeats), tuple(contents))
                ids, splits, repeats, contents, size = [], [], [], [], 0
    if ids:
        yield Batch(tuple(ids), tuple(splits), tuple(repeats), tuple(contents))


def _encode(batches: Iterator[Batch], tokenizer_folder: Path, workers: int) -> Iterator[Encoded]:
    """Encode batches in `workers` processes; results come in the order of the batches, a few at a time in memory."""
    first: list[Batch] = []
    for batch in batches:
        first.append(batch)
        if len(first) > 2 * workers:
            break
    workers = min(workers, len(first))
    if workers <= 1:
        codec = _Codec(tokenizer_folder)
        yield from map(codec.encode, _chain(first, batches))
        return
    import multiprocessing

    context = multiprocessing.get_context("spawn")  # threads of Arrow and of tokenizers do not survive a fork
    with ProcessPoolExecutor(workers, context, _start_worker, (tokenizer_folder,)) as pool:
        waiting: deque[Future[Encoded]] = deque()
        try:
            for batch in _chain(first, batches):
                waiting.append(pool.submit(_work, batch))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _chain(first: Sequence[Batch], rest: Iterator[Batch]) -> Iterator[Batch]:
    yield from first
    yield from rest


_codec: _Codec | None = None


def _start_worker(tokenizer_folder: Path) -> None:
    """Load the tokenizers once a process."""
    from components.launch.child_processes import end_with_parent

    global _codec
    end_with_parent()
    _codec = _Codec(tokenizer_folder)


def _work(batch: Batch) -> Encoded:
    assert _codec is not None
    return _codec.encode(batch)
