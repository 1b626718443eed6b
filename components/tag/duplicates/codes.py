"""The characters of a corpus as one array on disk: what duplicates and repeated passages are looked for in.

Parts are read by several processes, which each write a file of their own; these are joined in order. So the memory that is
needed does not grow with the corpus, and any stretch of any document can be read at once.
"""

from __future__ import annotations

import hashlib
import itertools
import mmap
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.corpus.shingles import batches, code_points, comparison_keys, starts_of
from components.errors import InkwellError
from components.progress import bar
from components.tag.executors import mapped

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.corpus.shingles import Codes, Ints

_READ_AT_ONCE = 1_000  # documents
_CODED_AT_ONCE = 4_000_000  # characters
_SMALL = 4 * 2**20  # bytes of text for which processes are not worth starting
DIGEST = 16  # bytes: of 10^12 documents two have the same digest by chance with probability 10^-15


@dataclass(frozen=True)
class Corpus:
    """N documents: `codes` holds the characters of all, mapped from disk; document i is `codes[offsets[i]:offsets[i + 1]]`.

    `file`: where they lie; `characters`: [N] length of the whole text (of which `codes` may hold only the key); `digests`: [N, DIGEST] of its codes.
    """

    file: Path
    codes: Codes
    offsets: Ints
    characters: Ints
    digests: np.ndarray[tuple[int, int], np.dtype[np.uint8]]

    def __len__(self) -> int:
        return len(self.characters)


def read(parts: Sequence[Path], kind: Literal["keys", "texts"], work: Path, workers: int | None) -> Corpus:
    """The comparison keys, or the texts themselves, of the column `text` of Parquet files; files go to `work`."""
    tasks = list(_tasks(parts))
    total = sum(documents for _, _, documents in tasks)
    workers = workers_for(sum(size for _, size, _ in tasks), workers)
    path = work / f"{kind}.codes"
    lengths, characters, digests = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [b""]
    work.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as joined, bar(f"{kind} of documents", total) as progress:
        tables = (task for task, _, _ in tasks)
        for number, table in enumerate(mapped(partial(_reader, kind, work), tables, "local", workers)):
            lengths.append(table["codes"].to_numpy())
            characters.append(table["characters"].to_numpy())
            digests.append(b"".join(table["digest"].to_pylist()))
            piece = _piece(work, kind, number)
            with piece.open("rb") as codes:
                shutil.copyfileobj(codes, joined, 2**20)
            piece.unlink()
            progress.advance(table.num_rows)
    offsets = starts_of(np.concatenate(lengths))
    return Corpus(
        path,
        mapped_array(path, int(offsets[-1])),
        offsets,
        np.concatenate(characters),
        np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST),
    )


def workers_for(size: int, workers: int | None) -> int | None:
    """One where starting processes takes longer than working on `size` bytes."""
    return 1 if size < _SMALL else workers


def mapped_array(path: Path, length: int) -> Codes:
    """A file of codes as an array that is read as it is used; an empty file cannot be mapped."""
    if not length:
        return np.zeros(0, dtype=np.uint32)
    return np.memmap(path, dtype="<u4", mode="r", shape=(length,))


def let_go(mapped: NDArray[np.uint32]) -> None:
    """Give back the memory of a mapped file's pages; they are read again when they are needed again."""
    pages = getattr(mapped, "_mmap", None)
    if isinstance(pages, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def gather(codes: Codes, starts: Ints, ends: Ints) -> tuple[Codes, Ints]:
    """The stretches [start, end) of the codes, one after the other, and their offsets."""
    offsets = starts_of(ends - starts)
    found = np.empty(int(offsets[-1]), dtype=np.uint32)
    # Stretch by stretch: an index for each character would be twice as large as the characters.
    for to, start, end in zip(offsets.tolist(), starts.tolist(), ends.tolist(), strict=False):
        found[to : to + end - start] = codes[start:end]
    return found, offsets


def runs(sizes: Ints, limit: int, most: int) -> Iterator[slice]:
    """Consecutive items in runs of `limit` in size and `most` in number; a larger item makes a run of its own."""
    total = starts_of(sizes)
    start = 0
    while start < len(sizes):
        end = int(np.searchsorted(total, total[start] + limit, side="right")) - 1
        end = min(max(end, start + 1), start + most, len(sizes))
        yield slice(start, end)
        start = end


def _tasks(parts: Sequence[Path]) -> Iterator[tuple[pa.Table, int, int]]:
    """What one worker gets at a time (a row group), the bytes of its text and its number of documents."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    for part in parts:
        try:
            file = pq.ParquetFile(part)
        except (pa.ArrowInvalid, OSError) as error:
            raise InkwellError(
                f"{part} is no readable Parquet file ({str(error).splitlines()[0]}): delete it and run the step again."
            ) from error
        with file:
            if "text" not in file.schema_arrow.names:
                raise InkwellError(f"{part} has no column 'text': run the step that writes it again.")
            for group in range(file.num_row_groups):
                found = file.metadata.row_group(group)
                columns = (found.column(column) for column in range(found.num_columns))
                size = next(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")
                task = pa.table({"part": [str(part)], "group": [group], "number": [number]})
                yield task, size, found.num_rows
                number += 1


def _piece(work: Path, kind: str, number: int) -> Path:
    return work / f"{kind}.{number:06}"


def _reader(kind: Literal["keys", "texts"], work: Path) -> Callable[[pa.Table], pa.Table]:
    """The function of a worker: a task to the lengths and digests of its documents, whose codes go to a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def work_on(task: pa.Table) -> pa.Table:
        (row,) = task.to_pylist()
        lengths, characters, digests = [], [], []
        with pq.ParquetFile(row["part"]) as file, _piece(work, kind, row["number"]).open("wb") as piece:
            for batch in file.iter_batches(_READ_AT_ONCE, [row["group"]], ["text"], use_threads=False):
                for texts in batches([text or "" for text in batch["text"].to_pylist()], _CODED_AT_ONCE):
                    codes, offsets = comparison_keys(texts) if kind == "keys" else code_points(texts)
                    content = codes.astype("<u4", copy=False).view(np.uint8)
                    piece.write(content.data)
                    lengths.append(np.diff(offsets))
                    characters.append(np.array([len(text) for text in texts], dtype=np.int64))
                    ends = (4 * offsets).tolist()
                    digests += [
                        hashlib.blake2b(content[start:end].data, digest_size=DIGEST).digest()
                        for start, end in itertools.pairwise(ends)
                    ]
        none = [np.zeros(0, np.int64)]
        return pa.table(
            {
                "codes": np.concatenate(lengths or none),
                "characters": np.concatenate(characters or none),
                "digest": pa.array(digests, pa.binary(DIGEST)),
            }
        )

    return work_on
