"""The two tables that clean writes, batch by batch: documents that stay, and documents that went, each with its reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.clean import passages
from components.clean.books import EXAMPLES, Books
from components.clean.content import render
from components.clean.reasons import Reasons
from components.clean.tagged import Tagged
from components.clean.verdicts import Verdicts
from components.corpus.documents import TRAIN, VALIDATION, clean_schema, removed_schema
from components.progress import bar

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.configuration import Clean

_SPLITS = np.array([VALIDATION, TRAIN], dtype=object)


def write_tables(
    folder: Path,
    tagged: Tagged,
    settings: Clean,
    verdicts: Verdicts,
    reasons: Reasons,
    train: NDArray[np.bool_],
    repeats: NDArray[np.int64],
    noise: NDArray[np.int16],
    sizes: NDArray[np.int64],
    books: Books,
) -> tuple[int, int]:
    """Write both files batch by batch; returns how many documents went into each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = ["id", "text", "title", "author", "metadata", "language", "script", "topic", "provenance"]
    extra = ["contaminated_by", "repeated_spans"]
    written = [0, 0]
    names = np.array([*verdicts.names, None], dtype=object)
    with (
        pq.ParquetWriter(folder / "documents.parquet", clean_schema(), compression="zstd") as clean_file,
        pq.ParquetWriter(folder / "removed.parquet", removed_schema(), compression="zstd") as removed_file,
        bar("write", len(tagged)) as progress,
    ):
        for start, table in tagged.batches([*shared, *extra]):
            rows = np.arange(start, start + len(table))
            stays = verdicts.kept[rows]
            kept, gone = table.filter(pa.array(stays)), table.filter(pa.array(~stays))
            here, there = rows[stays], rows[~stays]
            if settings.denied:
                gone = _withheld(gone, verdicts.removed_by("denied")[there])
            if settings.substrings == "cut":
                texts = pa.array(passages.texts(kept, settings), pa.string())
                kept = kept.set_column(kept.schema.get_field_index("text"), "text", texts)
            titles, authors = kept["title"].to_pylist(), kept["author"].to_pylist()
            contents = [
                render(settings.template, {"title": title, "author": author, "text": text})
                for title, author, text in zip(titles, authors, kept["text"].to_pylist(), strict=True)
            ]
            books.keep(contents, train[here], titles, authors)
            clean_file.write_table(
                _table(
                    clean_schema(),
                    kept,
                    content=contents,
                    repeats=repeats[here],
                    noise=names[noise[here]],  # -1 is the last: None
                    cluster=tagged.ids.take(tagged.cluster[here]),
                    cluster_size=sizes[tagged.cluster[here]],
                    split=_SPLITS[train[here].astype(int)],
                )
            )
            told = [
                reasons.of(row, by, metadata)
                for row, by, metadata in zip(
                    there.tolist(), gone["contaminated_by"].to_pylist(), gone["metadata"].to_pylist(), strict=True
                )
            ]
            twins = verdicts.twin[there]
            removed = _table(
                removed_schema(),
                gone,
                rule=names[verdicts.rule[there]],
                reason=told,
                value=verdicts.value[there],
                threshold=verdicts.threshold[there],
                duplicate_of=tagged.ids.take(pa.array(twins, mask=twins < 0)),
            )
            removed_file.write_table(removed)
            _examples(books, removed)
            written[0] += len(here)
            written[1] += len(there)
            progress.advance(len(table))
    return written[0], written[1]


def _withheld(table: pa.Table, denied: NDArray[np.bool_]) -> pa.Table:
    """What may not be kept is not kept for a look either: denied documents stand here by their ids alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = pa.array(denied)
    for name in ("text", "title", "author", "metadata"):
        column = table[name]
        nothing = pa.scalar("" if name == "text" else None, column.type)
        table = table.set_column(table.schema.get_field_index(name), name, pc.if_else(mask, nothing, column))
    return table


def _table(schema: pa.Schema, table: pa.Table, **columns: Any) -> pa.Table:
    """`table` in the form of `schema`, with some columns added."""
    import pyarrow as pa

    arrays = []
    for wanted in schema:
        if wanted.name in columns:
            found = columns[wanted.name]
            if not isinstance(found, pa.Array):
                found = pa.array(found, wanted.type, from_pandas=True)
            arrays.append(found)
        else:
            arrays.append(table[wanted.name])
    return pa.Table.from_arrays(arrays, schema=schema)


def _examples(books: Books, removed: pa.Table) -> None:
    """The first few of each rule."""
    for offset, rule in enumerate(removed["rule"].to_pylist()):
        if len(books.examples.setdefault(rule, [])) < EXAMPLES:
            [row] = removed.slice(offset, 1).to_pylist()
            told = {name: row[name] for name in ("id", "title", "reason", "duplicate_of")}
            books.examples[rule].append({**told, "begins": row["text"][:80]})
