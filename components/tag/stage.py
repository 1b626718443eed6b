"""The tag step: raw documents in; the same documents, normalised and measured, out. Nothing is dropped.

Three passes: every batch by itself (parts on disk, so that a killed run goes on), what needs the whole corpus (duplicates,
topics, perplexity, a judge's opinion), and the join of both into one file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.atomic import atomic_folder
from components.corpus.statistics import STATISTICS
from components.corpus.tagged_documents import read_statistic, tagged_schema
from components.progress import bar
from components.tag.annotate import Prepared
from components.tag.normalise import body_of
from components.tag.parts import Parts, annotate
from components.tag.whole import Whole, look_at_the_whole

if TYPE_CHECKING:
    from components.configuration import Tag
    from components.step import Context


def run(context: Context) -> None:
    """Write `documents.parquet`, `duplicates.parquet`, `map.parquet` and `summary.json` into the output folder, atomically."""
    settings = context.configuration.tag
    raw = context.inputs["raw"]
    work = context.work_folder().resolve()  # workers of a cluster have a working folder of their own
    prepared, told = _prepare(raw, settings, context, work)
    parts = annotate(raw / "documents.parquet", prepared, work / "parts", settings.executor, settings.workers)
    with atomic_folder(context.outputs["tagged"]) as folder:
        whole = look_at_the_whole(parts, settings, context.seed, raw / "reference.parquet", work, folder)
        told["figures"] |= whole.figures
        if whole.topics is not None:
            told["topics"] = whole.topics
        _join(parts, whole, folder / "documents.parquet")
        told |= {
            "documents": parts.rows,
            "documents_read": parts.documents,
            "floor": settings.duplicates.floor,
            "shingle_characters": int(whole.figures["shingle_characters"]),
            "taken_out": dict(parts.taken_out),
            "counts": dict(parts.counts),
            "measured": _measured(folder / "documents.parquet"),
        }
        if prepared.contamination is not None:
            told["contamination"] = _hits(parts, prepared.contamination)
        (folder / "summary.json").write_text(
            json.dumps(told, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
    context.metrics.update(
        {
            "documents_read": parts.documents,
            "documents": parts.rows,
            "characters_taken_out": parts.taken_out.total(),
            **parts.counts,
            **told["figures"],
        }
    )
    context.finished_with(work)
    context.recorder.dataset("tagged", context.outputs["tagged"] / "documents.parquet", "tagged")


def _prepare(raw: Path, settings: Tag, context: Context, work: Path) -> tuple[Prepared, dict[str, Any]]:
    """What every batch looks up: an index of the evaluation sets, a classifier trained on the examples."""
    figures: dict[str, float] = {}
    told: dict[str, Any] = {"figures": figures}
    evaluation, good, bad = (raw / f"{role}.parquet" for role in ("evaluation", "good", "bad"))
    contamination = quality = None
    normalise = body_of(settings)
    if evaluation.exists():
        from components.tag.contamination import build

        contamination = work / "contamination"
        figures |= build(evaluation, settings.contamination_ngram, contamination, normalise)
    if good.exists() or bad.exists():
        from components.tag.quality import train

        quality = work / "quality"
        figures |= train(good, bad, settings.quality, context.seed, quality, normalise)
    return Prepared(context.configuration.language, settings, contamination, quality), told


def _join(parts: Parts, whole: Whole, path: Path) -> None:
    """One file of all parts with the columns that came later."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = tagged_schema()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer, bar("write", parts.rows) as progress:
        for start, table in parts.tables(schema.names):
            end = start + len(table)
            tags = table["tags"].combine_chunks()
            fields = [
                pa.array(whole.scores[name][start:end], pa.float64(), from_pandas=True)
                if name in whole.scores
                else tags.field(name)
                for name in STATISTICS
            ]
            columns: dict[str, Any] = {
                "same_text": pa.array(whole.same_text[start:end]),
                "cluster": pa.array(whole.cluster[start:end]),
                "tags": pa.StructArray.from_arrays(fields, names=list(STATISTICS)),
            }
            if whole.topic is not None:
                columns["topic"] = pa.array(whole.topic[start:end])
            if whole.spans is not None:
                columns["repeated_spans"] = whole.spans(start, end).cast(schema.field("repeated_spans").type)
            writer.write_table(
                pa.Table.from_arrays([columns.get(name, table[name]) for name in schema.names], schema=schema)
            )
            progress.advance(len(table))


def _hits(parts: Parts, index: Path) -> list[dict[str, Any]]:
    """For each evaluation set: how many documents share something with it, and a few of them."""
    from dataclasses import asdict

    from components.tag.contamination import listing

    def marked() -> Iterator[tuple[str, str | None]]:
        for _, table in parts.tables(["id", "contaminated_by"]):
            yield from zip(table["id"].to_pylist(), table["contaminated_by"].to_pylist(), strict=True)

    return [asdict(found) for found in listing(index, marked())]


def _measured(path: Path) -> dict[str, dict[str, float]]:
    """Quantiles of every statistic that was measured, for the data card and for drift."""
    found = {}
    for name in STATISTICS:
        values = read_statistic(path, name)
        values = values[~np.isnan(values)]
        if len(values):
            quantiles = np.quantile(values, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1])
            names = ("minimum", "1 %", "5 %", "25 %", "median", "75 %", "95 %", "99 %", "maximum")
            found[name] = dict(zip(names, map(float, quantiles), strict=True)) | {"mean": float(values.mean())}
    return found
