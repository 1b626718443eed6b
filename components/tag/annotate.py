"""One batch of raw documents, normalised and measured: the function that every executor maps over the corpus.

A batch knows nothing of other batches; what needs the whole corpus (duplicates, topics, perplexity) comes after.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.language_facts import facts
from components.corpus.statistics import STATISTICS
from components.corpus.tagged_documents import tagged_schema
from components.tag.divide import divide
from components.tag.identify import Identifier
from components.tag.lines import take_out
from components.tag.measure import measure
from components.tag.normalise import Normaliser
from components.tag.personal import Scrubber

if TYPE_CHECKING:
    import pyarrow as pa

    from components.configuration import Tag

COUNTS = b"inkwell.counts"  # key of a table's metadata: what was taken out, as JSON


@dataclass(frozen=True)
class Prepared:
    """What was prepared once for all batches; folders are absent where there is nothing to look up."""

    language: str
    settings: Tag
    contamination: Path | None = None
    quality: Path | None = None


def annotator(prepared: Prepared) -> Callable[[pa.Table], pa.Table]:
    """The function raw table -> tagged table; made once in each worker, since models take time to load.

    Columns of later passes are null, `same_text` and `cluster` too. The table's metadata counts what was taken out.
    """
    import pyarrow as pa

    settings = prepared.settings
    normalise = Normaliser(settings)
    identify = Identifier(prepared.language, settings.identify_language)
    scrub = Scrubber(settings.pii) if any(settings.pii.model_dump().values()) else None
    cut_lines = any(settings.lines.model_dump().values())
    families = sorted({"shape", *settings.families})
    index = quality = None
    if prepared.contamination is not None:
        from components.tag.contamination import Index

        index = Index.open(prepared.contamination)
    if prepared.quality is not None:
        from components.tag.quality import load

        quality = load(prepared.quality)
    schema = tagged_schema()

    def annotate(table: pa.Table) -> pa.Table:
        normalise.removed.clear()
        counts: Counter[str] = Counter()
        ids: list[str] = []
        texts: list[str] = []
        titles: list[str | None] = []
        authors: list[str | None] = []
        origins: list[int] = []  # the row of `table` that each comes from
        repaired: list[int] = []
        read = (table[name].to_pylist() for name in ("id", "text", "title", "author"))
        for row, (name, text, title, author) in enumerate(zip(*read, strict=True)):
            text, mended = normalise.body(text)
            title, author = normalise.name(title), normalise.name(author)
            parts = divide(text, settings.maximum_characters) or [text]
            for number, part in enumerate(parts, 1):
                ids.append(name if len(parts) == 1 else f"{name}#{number}")
                texts.append(part)
                titles.append(title)
                authors.append(author)
                origins.append(row)
                repaired.append(mended if number == 1 else 0)
        languages, certainty, scripts = identify(texts)
        tags: dict[str, Any] = {}
        if cut_lines:
            shares = np.zeros(len(texts))
            for number, text in enumerate(texts):
                texts[number], gone, lines = take_out(text, settings.lines, facts(languages[number]))
                shares[number] = gone / lines if lines else 0.0
                counts["lines_taken_out"] += gone
                counts["characters_of_lines_taken_out"] += len(text) - len(texts[number])
            tags["lines_taken_out"] = shares
        if scrub is not None:
            found: dict[str, Any] = {}
            for number, text in enumerate(texts):
                texts[number], replaced = scrub(text, languages[number])
                together = Counter(replaced)
                for labels in (titles, authors):  # a template may put these in front of the text
                    if label := labels[number]:
                        labels[number], replaced = scrub(label, languages[number])
                        together.update(replaced)
                for name, count in together.items():
                    found.setdefault(name, np.zeros(len(texts)))[number] = count
                    counts[name] += count
            tags |= found
        tags |= measure(texts, languages, families)
        tags["language_score"] = certainty
        if settings.mojibake:
            tags["mojibake_repaired"] = np.array(repaired, dtype=np.float64)
            counts["mojibake_repaired"] = sum(repaired)
        if quality is not None:
            tags["quality"] = quality.score(texts)
        hits = [index.hit(text, languages[number]) for number, text in enumerate(texts)] if index else None
        size = len(texts)
        measured = [
            pa.array(tags[name], pa.float64(), from_pandas=True) if name in tags else pa.nulls(size, pa.float64())
            for name in STATISTICS
        ]
        # Nested columns are taken over as they lie there: as Python objects they would cost more than some measurements.
        untouched = table.select(["metadata", "provenance"])
        if size > table.num_rows:
            untouched = untouched.take(origins)
        columns: dict[str, Any] = {
            "id": ids,
            "text": texts,
            "title": titles,
            "author": authors,
            "metadata": untouched["metadata"].combine_chunks(),
            "provenance": untouched["provenance"].combine_chunks(),
            "language": languages,
            "script": scripts,
            "topic": np.full(size, -1, dtype=np.int32),
            "contaminated_by": hits,
            "tags": pa.StructArray.from_arrays(measured, names=list(STATISTICS)),
        }
        arrays = [_array(columns.get(field.name), field.type, size) for field in schema]
        told = {"documents": table.num_rows, "taken_out": dict(normalise.removed), "counts": dict(counts)}
        return pa.Table.from_arrays(arrays, schema=schema.with_metadata({COUNTS: json.dumps(told).encode()}))

    return annotate


def _array(column: Any, kind: pa.DataType, size: int) -> pa.Array:
    """A column in its type; nulls where there is none yet."""
    import pyarrow as pa

    if column is None:
        return pa.nulls(size, kind)
    return column if isinstance(column, pa.Array) else pa.array(column, kind)
