"""What the whole corpus says of each document, once all are normalised: duplicates, topics, perplexity, a judge's opinion.

Each pass reads the parts batch by batch; in memory there are some numbers a document.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.tagged_documents import read_statistic
from components.progress import bar
from components.tag.executors import mapped
from components.tag.normalise import body_of

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from components.configuration import Tag
    from components.tag.parts import Parts


@dataclass
class Whole:
    """What was found of each of N documents; None where nobody asked.

    figures: for the metrics; topics: number, terms, documents and characters of each.
    """

    same_text: NDArray[np.int64]
    cluster: NDArray[np.int64]
    figures: dict[str, float]
    scores: dict[str, NDArray[np.float64]] = field(default_factory=dict)  # statistics by name, NaN where not measured
    topic: NDArray[np.int32] | None = None
    topics: list[dict[str, Any]] | None = None
    spans: Callable[[int, int], pa.Array] | None = None  # repeated passages of rows [start, end)


def look_at_the_whole(parts: Parts, settings: Tag, seed: int, reference: Path, work: Path, folder: Path) -> Whole:
    """Make every pass that `settings` ask for; `duplicates.parquet` and `map.parquet` are written into `folder`.

    reference: documents of role reference, if that file exists; work: for temporary files and models.
    """
    from components.tag.duplicates import find

    found = find(parts.paths, settings.duplicates, seed, work / "duplicates", settings.workers)
    shutil.copyfile(found.pairs, folder / "duplicates.parquet")
    whole = Whole(found.same_text, found.cluster, dict(found.figures))
    if settings.duplicates.substring_characters:
        from components.tag.duplicates.substrings import repeated_spans

        repeated = repeated_spans(
            parts.paths, settings.duplicates.substring_characters, work / "substrings", settings.workers
        )
        whole.spans, whole.scores["substrings"] = repeated.between, repeated.shares
        whole.figures |= repeated.figures
    if settings.topics.clusters:
        whole.topic, whole.scores["typicality"], whole.topics = _topics(parts, settings, seed, work, folder)
    if settings.perplexity.order:
        from components.tag.perplexity import train

        whole.figures |= train(
            parts.paths,
            reference if reference.exists() else None,
            settings.perplexity,
            seed,
            work / "perplexity",
            body_of(settings),
        )
        columns = _mapped_columns(parts, _PerplexityMaker(work / "perplexity"), settings, "perplexity")
        whole.scores["perplexity"] = columns["perplexity"]
    if settings.judge.address:
        whole.scores["judge"] = _judged(parts, settings, seed)
    return whole


def _topics(
    parts: Parts, settings: Tag, seed: int, work: Path, folder: Path
) -> tuple[NDArray[np.int32], NDArray[np.float64], list[dict[str, Any]]]:
    """Clusters learnt from a sample, every document's cluster, and a picture of some of them."""
    from components.tag.topics import MAP_POINTS, READ, coordinates, learn, write_map

    rows = _drawn(parts.rows, settings.topics.sample, seed)
    # The beginnings that tell topics: fifty thousand books would not fit into memory.
    sample = [(text[:READ], language) for text, language in _texts(parts, rows)]
    model = learn([text for text, _ in sample], [language for _, language in sample], settings.topics, seed)
    model.save(work / "topics.npz")
    shown = rows[:: max(1, -(-len(rows) // MAP_POINTS))]
    beginnings = [text[:READ] for text, _ in _texts(parts, shown)]
    write_map(folder / "map.parquet", shown, coordinates(model, beginnings, seed))
    columns = _mapped_columns(parts, _TopicMaker(work / "topics.npz"), settings, "topics")
    topic, typicality = columns["topic"].astype(np.int32), columns["typicality"]
    lengths = np.concatenate([read_statistic(path, "characters") for path in parts.paths])
    sizes = np.bincount(topic[topic >= 0], minlength=model.topics)
    characters = np.bincount(topic[topic >= 0], weights=lengths[topic >= 0], minlength=model.topics)
    told = [
        {"number": number, "terms": terms, "documents": int(sizes[number]), "characters": int(characters[number])}
        for number, terms in enumerate(model.terms())
    ]
    return topic, typicality, told


def _mapped_columns(parts: Parts, make: Callable[[], Any], settings: Tag, label: str) -> dict[str, NDArray[Any]]:
    """Columns that a function of each part's texts gives, over all rows."""
    found: dict[str, list[NDArray[Any]]] = {}
    with bar(label, parts.rows) as progress:
        tables = (table for _, table in parts.tables(["text"]))
        for table in mapped(make, tables, settings.executor, settings.workers):
            for name in table.column_names:
                found.setdefault(name, []).append(table[name].to_numpy())
            progress.advance(len(table))
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


@dataclass(frozen=True)
class _TopicMaker:
    """Picklable: each worker opens the model for itself."""

    path: Path

    def __call__(self) -> Callable[[pa.Table], pa.Table]:
        import pyarrow as pa

        from components.tag.topics import Model

        model = Model.load(self.path)

        def assign(table: pa.Table) -> pa.Table:
            topic, typicality = model.assign(table["text"].to_pylist())
            return pa.table({"topic": topic, "typicality": typicality})

        return assign


@dataclass(frozen=True)
class _PerplexityMaker:
    """Picklable: each worker opens the models for itself."""

    folder: Path

    def __call__(self) -> Callable[[pa.Table], pa.Table]:
        import pyarrow as pa

        from components.tag.perplexity import load

        scorer = load(self.folder)
        return lambda table: pa.table({"perplexity": scorer.score(table["text"].to_pylist())})


def _judged(parts: Parts, settings: Tag, seed: int) -> NDArray[np.float64]:
    from components.step import STATE
    from components.tag.judge import ask, draw

    rows = draw(parts.rows, settings.judge, seed)
    documents = ((str(row), text) for row, (text, _) in zip(rows.tolist(), _texts(parts, rows), strict=True))
    scores = np.full(parts.rows, np.nan)
    # Answers cost money or hours: they outlive the run.
    for name, score in ask(documents, settings.judge, STATE / "judge.jsonl").items():
        scores[int(name)] = score
    return scores


def _drawn(total: int, size: int, seed: int) -> NDArray[np.int64]:
    """`size` rows of `total`, all of them when there are not more, in order."""
    if total <= size:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, size, replace=False))


def _texts(parts: Parts, rows: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
    """Text and language of some rows, in order."""
    for start, table in parts.tables(["text", "language"]):
        here = rows[np.searchsorted(rows, start) : np.searchsorted(rows, start + len(table))] - start
        chosen = table.take(here)
        yield from zip(chosen["text"].to_pylist(), chosen["language"].to_pylist(), strict=True)
