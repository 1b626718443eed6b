"""The contract between measuring and deciding: `data/tagged`, which `tag` writes, `clean` decides by and `datacard` shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from components.corpus.documents import LANGUAGE_COLUMNS, RAW_COLUMNS, schema_of
from components.corpus.statistics import STATISTICS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

_TAGGED_COLUMNS: list[tuple[str, str]] = [
    *RAW_COLUMNS,
    *LANGUAGE_COLUMNS,
    (
        "same_text",
        "int64",
    ),  # row of the first document with the same letters and digits; -1: seen before, by a Bloom filter
    ("cluster", "int64"),  # row of the first document of its duplicate cluster at tag.duplicates.floor
    ("contaminated_by", "string"),  # "<evaluation source>/<document id>: <shared n-gram>", null where there is none
]


def tagged_schema() -> pa.Schema:
    """Columns of `data/tagged/documents.parquet`.

    `tags`: a struct with one float64 for each of `components.corpus.statistics.STATISTICS`, null where it was not measured.
    `repeated_spans`: [start, end) of passages (characters of `text`) that an earlier document holds too.
    """
    import pyarrow as pa

    spans = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32())]))
    tags = pa.struct([(name, pa.float64()) for name in STATISTICS])
    plain = schema_of(_TAGGED_COLUMNS)
    return plain.append(pa.field("repeated_spans", spans)).append(pa.field("tags", tags))


def duplicates_schema() -> pa.Schema:
    """Columns of `data/tagged/duplicates.parquet`: near duplicates, verified.

    Each row is a pair of rows a < b of documents.parquet, both the first with their text (`same_text`), and the exact Jaccard
    similarity of their character n-grams, at least `tag.duplicates.floor`.
    """
    import pyarrow as pa

    return pa.schema([("a", pa.int64()), ("b", pa.int64()), ("similarity", pa.float64())])


def read_statistic(path: Path, name: str) -> NDArray[np.float64]:
    """One of `tags` for every document of a tagged file (or part of one), NaN where it was not measured."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:  # a dataset would not find fields of a struct by name
        column = file.read(columns=[f"tags.{name}"])["tags"].combine_chunks()
    return cast("NDArray[np.float64]", column.field(name).to_numpy(zero_copy_only=False))
