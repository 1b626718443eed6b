"""Tagged documents as columns: what decisions need of each, without its text.

Text is read batch by batch where it is needed; two million documents fit in memory as numbers, not as strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.documents import read_table
from components.corpus.statistics import STATISTICS
from components.corpus.tagged_documents import duplicates_schema, read_statistic, tagged_schema
from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


_IDS_AT_ONCE = 100_000


@dataclass(frozen=True)
class Labels:
    """A column of few different strings: `names`, sorted, and for each document the number of its own."""

    names: list[str]
    numbers: NDArray[np.int64]

    def __getitem__(self, row: int) -> str:
        return self.names[int(self.numbers[row])]

    def are(self, name: str) -> NDArray[np.bool_]:
        """Which documents have that name."""
        return np.asarray(self.numbers == (self.names.index(name) if name in self.names else -1))


@dataclass
class Tagged:
    """The columns of N documents; `summary` is what the tag step said of the whole."""

    path: Path
    ids: pa.StringArray
    language: Labels
    source: Labels
    topic: NDArray[np.int32]
    same_text: NDArray[np.int64]
    cluster: NDArray[np.int64]
    contaminated: NDArray[np.bool_]
    pairs: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]
    summary: dict[str, Any]

    def __len__(self) -> int:
        return len(self.same_text)

    def statistic(self, name: str) -> NDArray[np.float64]:
        """One statistic of every document, NaN where it was not measured; read anew each time, for there are dozens."""
        return read_statistic(self.path, name)

    def measured(self) -> set[str]:
        """The statistics that some document has a value of."""
        import pyarrow.parquet as pq

        told = pq.read_metadata(self.path)
        found = set()
        for group in map(told.row_group, range(told.num_row_groups)):
            for column in map(group.column, range(group.num_columns)):
                counted = column.statistics
                if counted is None or counted.null_count is None or counted.null_count < group.num_rows:
                    found.add(column.path_in_schema)
        return {name for name in STATISTICS if f"tags.{name}" in found}

    def id(self, row: int) -> str:
        """The id of one document."""
        return str(self.ids[row].as_py())

    def names_of(self, rows: NDArray[np.int64]) -> Iterator[str]:
        """The ids of some documents, in their order."""
        for start in range(0, len(rows), _IDS_AT_ONCE):
            yield from self.ids.take(rows[start : start + _IDS_AT_ONCE]).to_pylist()

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
        """Tables of some columns with the row that each begins at.

        These are the row groups as tag wrote them, of bounded rows and characters; batches of rows would reach across them.
        """
        import pyarrow.parquet as pq

        start = 0
        with pq.ParquetFile(self.path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=list(columns))
                yield start, table
                start += len(table)


def open_tagged(folder: Path) -> Tagged:
    """Read the columns of `data/tagged`; InkwellError when files are missing or empty."""
    import pyarrow.parquet as pq

    path = folder / "documents.parquet"
    read_table(path, tagged_schema(), ["topic"])  # checks the file and its columns
    columns = ["id", "language", "topic", "same_text", "cluster", "contaminated_by", "provenance.source"]
    with pq.ParquetFile(path) as file:  # a dataset would not find fields of a struct by name
        table = file.read(columns=columns)
    if not len(table):
        raise InkwellError(f"{path} holds no documents: name a source with text in ingest.sources.")
    pairs = read_table(folder / "duplicates.parquet", duplicates_schema())
    return Tagged(
        path,
        table["id"].combine_chunks(),
        _labels(table["language"].combine_chunks()),
        _labels(table["provenance"].combine_chunks().field("source")),
        table["topic"].fill_null(-1).to_numpy(),
        table["same_text"].to_numpy(),
        table["cluster"].to_numpy(),
        table["contaminated_by"].is_valid().to_numpy(),
        (pairs["a"].to_numpy(), pairs["b"].to_numpy(), pairs["similarity"].to_numpy()),
        _summary(folder / "summary.json"),
    )


def _summary(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InkwellError(f"{path} cannot be read ({error}): run tag again.") from error
    return found


def _labels(column: pa.Array) -> Labels:
    coded = column.dictionary_encode()
    names = coded.dictionary.to_pylist()
    order = sorted(names)
    place = np.array([order.index(name) for name in names], dtype=np.int64)
    return Labels(order, place[coded.indices.to_numpy(zero_copy_only=False)])
