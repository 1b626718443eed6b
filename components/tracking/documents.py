"""An index of a corpus by document: which documents a version of `data/clean` holds, and what became of the others.

It stands outside the tracked outputs, named by the hash of the version, and answers one question: was this document
trained on? A document is found by its id, or by its text (NFKC, white space aside), of which a 128-bit hash is kept.
Ids of documents that were removed are in it too, with the rule, and of duplicates the id of the one that stayed.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa

REMOVED = "removed"  # beside the splits' names
LARGEST_ARTIFACT = 256 * 2**20  # bytes; a larger index is kept in the workspace only
_ROWS = 50_000  # a row group of the index, which is sorted by id: one is read to find a document


def index_path(state: Path, clean: str) -> Path:
    """Where the index of the version with this hash (32 hex digits, as in MLflow) stands under `.inkwell`."""
    return state / "lineage" / f"{clean}.parquet"


def text_key(text: str) -> bytes:
    """128 bits that tell one text from another; white space and compatibility forms aside."""
    plain = "".join(unicodedata.normalize("NFKC", text).split())
    return hashlib.blake2b(plain.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def build_index(clean: Path, target: Path, tokens: Path | None = None) -> int:
    """Write the index of the folder `clean` to `target` and return how many documents it knows.

    `tokens`: the packed corpus that was made of it; its counts have to agree, document by split. Raises InkwellError
    when they do not, or when a file is missing or broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.atomic import atomic_file

    schema = pa.schema(
        [
            *((name, pa.string()) for name in ("id", "source", "split")),
            ("repeats", pa.int64()),  # how often an epoch reads it
            *((name, pa.binary(16)) for name in ("text", "content")),  # hashes
            *((name, pa.string()) for name in ("rule", "duplicate_of")),
        ]
    )
    # Hashes instead of texts: a table of some 100 bytes a document, small enough to sort in memory.
    table = pa.Table.from_batches(
        (pa.RecordBatch.from_pylist(rows, schema=schema) for rows in _in_groups(_entries(clean))), schema
    )
    if tokens is not None:
        _agree(clean, tokens, table)
    with atomic_file(target) as temporary:
        pq.write_table(table.sort_by("id"), temporary, compression="zstd", row_group_size=_ROWS)
    return len(table)


def find(index: Path, ids: Iterable[str] = (), texts: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Rows of the index with these ids or texts, and rows that were removed as duplicates of these ids.

    Raises InkwellError when the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted, keys = list(ids), [text_key(text) for text in texts]
    filters = [
        [(column, "in", values)]
        for column, values in (("id", wanted), ("duplicate_of", wanted), ("text", keys), ("content", keys))
        if values
    ]
    if not filters:
        return []
    try:
        found: list[dict[str, Any]] = pq.read_table(index, filters=filters).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise InkwellError(
            f"{index} cannot be read ({str(error).splitlines()[0]}): delete it and ask again."
        ) from error
    return found


def _entries(clean: Path) -> Iterator[dict[str, Any]]:
    from components.corpus.documents import clean_schema, iterate, removed_schema

    kept = ["id", "text", "content", "split", "repeats", "provenance"]
    for row in iterate(clean / "documents.parquet", clean_schema(), kept):
        yield {
            **{name: row[name] for name in ("id", "split", "repeats")},
            "source": row["provenance"]["source"],
            "text": text_key(row["text"] or ""),
            "content": text_key(row["content"]),
        }
    removed = clean / "removed.parquet"
    if removed.exists():
        for row in iterate(removed, removed_schema(), ["id", "text", "rule", "duplicate_of", "provenance"]):
            yield {
                **{name: row[name] for name in ("id", "rule", "duplicate_of")},
                "source": row["provenance"]["source"],
                "split": REMOVED,
                "repeats": 0,
                "text": text_key(row["text"] or ""),
            }


def _in_groups(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group


def _agree(clean: Path, tokens: Path, table: pa.Table) -> None:
    """The packed corpus holds each document `repeats` times; another number was made of another version."""
    import pyarrow.compute as pc

    from components.corpus.packed import META

    meta = json.loads((tokens / META).read_text(encoding="utf-8"))
    for split, summary in meta["splits"].items():
        here = pc.sum(table.filter(pc.equal(table["split"], split))["repeats"]).as_py() or 0
        if here != summary["documents"]:
            raise InkwellError(
                f"{tokens} holds {summary['documents']} {split} documents and {clean} {here}: run the tokenize step again."
            )
