"""The tagged parts of a corpus on disk: written batch by batch, read again by every pass that needs the whole.

A part that is there is finished, so a killed run goes on behind the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.atomic import atomic_file
from components.corpus.documents import raw_schema, read_table
from components.errors import InkwellError
from components.progress import bar
from components.tag.annotate import COUNTS, Prepared, annotator

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_ROWS = 5_000
_CHARACTERS = 8_000_000  # of text in a batch, so that a worker's memory does not depend on how long documents are


@dataclass
class Parts:
    """Files in order, and in which rows each begins; what was taken out of them all."""

    paths: list[Path]
    starts: list[int] = field(default_factory=list)
    rows: int = 0
    documents: int = 0
    taken_out: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Each part's first row and some of its columns."""
        import pyarrow.parquet as pq

        for start, path in zip(self.starts, self.paths, strict=True):
            with pq.ParquetFile(path) as file:
                yield start, file.read(columns=list(columns))


def annotate(
    raw: Path, prepared: Prepared, folder: Path, executor: Literal["local", "ray"], workers: int | None
) -> Parts:
    """Annotate every raw document into `folder`, as far as that is not done yet; raises InkwellError for a broken or empty corpus."""
    import pyarrow.parquet as pq

    from components.tag.executors import mapped

    read_table(raw, raw_schema(), ["id"])  # checks the file
    folder.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(raw) as file:
        total = file.metadata.num_rows
    if not total:
        raise InkwellError(f"{raw} holds no documents: name a source with text in ingest.sources.")
    done = {int(path.stem) for path in folder.glob("[0-9]*.parquet")}
    paths: list[Path] = []
    missing: list[Path] = []

    def waiting() -> Iterator[pa.Table]:
        for number, batch in enumerate(_batches(raw)):
            path = folder / f"{number:06}.parquet"
            paths.append(path)
            if number in done:
                shown.advance(len(batch))
            else:
                missing.append(path)
                yield batch

    make: Callable[[], Callable[[pa.Table], pa.Table]] = _Maker(prepared)
    with bar("normalise and measure", total) as shown:
        for number, table in enumerate(mapped(make, waiting(), executor, workers)):
            with atomic_file(missing[number]) as temporary:
                pq.write_table(table, temporary, compression="zstd", compression_level=1)
            shown.advance(json.loads(table.schema.metadata[COUNTS])["documents"])
    return _opened(paths, raw)


@dataclass(frozen=True)
class _Maker:
    """Picklable: each worker makes its own annotator."""

    prepared: Prepared

    def __call__(self) -> Callable[[pa.Table], pa.Table]:
        return annotator(self.prepared)


def _batches(raw: Path) -> Iterator[pa.Table]:
    """Slices of the raw file, the same in every run, of bounded rows and characters."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(raw) as file:
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, columns=raw_schema().names)
            lengths = pc.fill_null(pc.utf8_length(table["text"]), 0).to_numpy()
            start = 0
            while start < len(table):
                fits = int(np.searchsorted(np.cumsum(lengths[start : start + _ROWS]), _CHARACTERS, side="right"))
                size = min(max(1, fits), _ROWS)
                yield table.slice(start, size)
                start += size


def _opened(paths: list[Path], raw: Path) -> Parts:
    import pyarrow.parquet as pq

    parts = Parts(paths)
    names: list[NDArray[np.uint64]] = []
    for path in paths:
        told = json.loads(pq.read_schema(path).metadata[COUNTS])
        ids = pq.read_table(path, columns=["id"])["id"].to_pylist()
        parts.starts.append(parts.rows)
        parts.rows += len(ids)
        parts.documents += told["documents"]
        parts.taken_out.update(told["taken_out"])
        parts.counts.update(told["counts"])
        digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
        names.append(np.frombuffer(digests, dtype=np.uint64))
    _check_unique(np.concatenate(names), parts, raw)
    return parts


def _check_unique(hashes: NDArray[np.uint64], parts: Parts, raw: Path) -> None:
    distinct, counts = np.unique(hashes, return_counts=True)
    if len(distinct) == len(hashes):
        return
    suspects = set(np.flatnonzero(np.isin(hashes, distinct[counts > 1])).tolist())
    seen: set[str] = set()
    for start, table in parts.tables(["id"]):
        for row in sorted(suspects.intersection(range(start, start + len(table)))):
            name = table["id"][row - start].as_py()
            if name in seen:
                raise InkwellError(f"{raw} holds the id {name!r} more than once: run ingest again.")
            seen.add(name)
