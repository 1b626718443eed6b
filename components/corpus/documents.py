"""The contract of documents: the Parquet schema that ingest writes, clean refines and every later step reads.

Raw documents (`RAW_SCHEMA`) carry what the source said. Clean documents (`CLEAN_SCHEMA`) add the split, the duplicate
cluster and `content`: the exact string that is trained on, scored and counted, so that every figure per character in
this project speaks of the same characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.atomic import atomic_file
from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN = "train"
VALIDATION = "validation"

_PROVENANCE = [("source", "string"), ("origin", "string"), ("member", "string"), ("row", "int64")]
RAW_COLUMNS: list[tuple[str, str]] = [
    ("id", "string"),  # unique, stable: derived from source, member and row
    ("text", "string"),  # the body
    ("title", "string"),  # null where the source has none
    ("author", "string"),  # null where the source has none
    ("metadata", "string"),  # JSON object: every other field of the source
]
LANGUAGE_COLUMNS: list[tuple[str, str]] = [
    ("language", "string"),  # ISO 639-1, "und" where it could not be told
    ("script", "string"),  # ISO 15924 of most letters: Hani, Cyrl, Latn ...; "Zyyy" without letters
    ("topic", "int32"),  # number of the cluster, -1 where none
]
_CLEAN_COLUMNS: list[tuple[str, str]] = [
    *RAW_COLUMNS,
    *LANGUAGE_COLUMNS,
    ("repeats", "int64"),  # how often an epoch reads it (1 in validation)
    ("noise", "string"),  # rule that would have dropped it, had it not been kept as noise; null otherwise
    ("content", "string"),  # what is trained on: title, author and text by the template
    ("cluster", "string"),  # id of the near-duplicate cluster's representative
    ("cluster_size", "int64"),  # documents that the cluster had before de-duplication
    ("split", "string"),  # "train" or "validation"
]
_REMOVED_COLUMNS: list[tuple[str, str]] = [
    *RAW_COLUMNS,
    *LANGUAGE_COLUMNS,
    ("rule", "string"),  # name of the rule that removed it
    ("reason", "string"),  # one sentence
    ("value", "float64"),  # what was measured, null where the rule measures nothing
    ("threshold", "float64"),
    ("duplicate_of", "string"),  # id of the kept document, null otherwise
]


def schema_of(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """A schema of (name, Arrow type) columns and the provenance that every document carries."""
    import pyarrow as pa

    fields = [pa.field(name, getattr(pa, kind)()) for name, kind in columns]
    provenance = pa.struct([pa.field(name, getattr(pa, kind)()) for name, kind in _PROVENANCE])
    return pa.schema([*fields, pa.field("provenance", provenance)])


def raw_schema() -> pa.Schema:
    """Columns of `data/raw/documents.parquet`; `provenance` = {source, origin, member, row}.

    `source` is the name of the source in `params.yaml`, `origin` its content address (`sha256:...` of the archive or
    file), `member` the file inside it and `row` the position inside that file, counted from 0.
    """
    return schema_of(RAW_COLUMNS)


def clean_schema() -> pa.Schema:
    """Columns of `data/clean/documents.parquet`."""
    return schema_of(_CLEAN_COLUMNS)


def removed_schema() -> pa.Schema:
    """Columns of `data/clean/removed.parquet`: every removed document beside the rule that removed it."""
    return schema_of(_REMOVED_COLUMNS)


def write_documents(
    path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, batch: int = 10_000, characters: int = 32_000_000
) -> int:
    """Write `rows` atomically as Parquet (zstd) and return how many there were.

    Memory is bounded by what is written at once: `batch` rows, or as many as hold `characters` of text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        pending: list[dict[str, Any]] = []
        held = 0
        for row in rows:
            pending.append(row)
            held += len(row.get("text") or "")
            if len(pending) == batch or held >= characters:
                writer.write_table(pa.Table.from_pylist(pending, schema=schema))
                count += len(pending)
                pending, held = [], 0
        if pending:
            writer.write_table(pa.Table.from_pylist(pending, schema=schema))
            count += len(pending)
    return count


def read_table(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole documents file, checked against `schema`.

    Raises InkwellError when the file is missing, is no Parquet, lacks a column or holds one of another type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_schema(path, schema)
        return pq.read_table(path, columns=list(columns) if columns else schema.names)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _unreadable(path, error) from error


def batches(
    path: Path, schema: pa.Schema, columns: Sequence[str] | None = None, rows: int = 10_000
) -> Iterator[pa.RecordBatch]:
    """A documents file in file order, `rows` at a time, so that memory does not grow with it; raises as `read_table` does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_schema(path, schema)
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(rows, columns=list(columns) if columns else schema.names)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _unreadable(path, error) from error


def _check_schema(path: Path, schema: pa.Schema) -> None:
    import pyarrow.parquet as pq

    if not path.exists():
        raise InkwellError(f"{path} does not exist: run the step that writes it first (see `dvc dag`).")
    found = pq.read_schema(path)
    for field in schema:
        if field.name not in found.names:
            raise InkwellError(
                f"{path} has no column {field.name!r}; it has {', '.join(found.names)}. Run its step again."
            )
        if found.field(field.name).type != field.type:
            raise InkwellError(
                f"{path}: column {field.name!r} is {found.field(field.name).type}, expected {field.type}."
            )


def _unreadable(path: Path, error: Exception) -> InkwellError:
    return InkwellError(
        f"{path} is no readable Parquet file ({str(error).splitlines()[0]}): delete it and run its step again."
    )


def iterate(path: Path, schema: pa.Schema, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a documents file as dictionaries, in file order."""
    for batch in batches(path, schema, columns):
        yield from batch.to_pylist()


def read_contents(path: Path, split: str) -> list[str]:
    """`content` of every clean document of one split, in file order; InkwellError when the split is empty."""
    contents = [row["content"] for row in iterate(path, clean_schema(), ["content", "split"]) if row["split"] == split]
    if not contents:
        raise InkwellError(
            f"{path} holds no {split} documents: the corpus is too small for clean.validation_fraction; "
            "add documents or change that parameter."
        )
    return contents
