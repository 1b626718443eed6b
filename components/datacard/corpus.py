"""What the pages tell of, read from the files of ingest, tag and clean; memory grows with the number of documents, not their text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.corpus.documents import batches, clean_schema, read_table, removed_schema
from components.corpus.statistics import LENGTH_EDGES, STATISTICS
from components.corpus.tagged_documents import duplicates_schema, read_statistic, tagged_schema
from components.errors import InkwellError

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Row = dict[str, Any]
KEPT = ""  # in place of the rule that dropped a document

_BEGINNING = 1_000  # characters of a text that a page may show
_KEYS = ("source", "language", "script", "topic")


@dataclass
class Amount:
    """Documents and their characters (of the text, without title and author)."""

    documents: int = 0
    characters: int = 0

    def add(self, documents: int, characters: int) -> None:
        """Count more."""
        self.documents += documents
        self.characters += characters


@dataclass
class Tally:
    """A file's documents counted by (source, language, script, topic, mark), and its lengths by bins.

    `mark` is the rule in removed.parquet and the split in clean's documents.parquet. `lengths` goes by the
    lowest length of a bin (1, 2, 5, 10, 20, 50 ...).
    """

    cells: dict[tuple[str, str, str, int, str], Amount] = field(default_factory=dict)
    lengths: dict[int, Amount] = field(default_factory=dict)

    def total(self) -> Amount:
        """Everything."""
        found = Amount()
        for amount in self.cells.values():
            found.add(amount.documents, amount.characters)
        return found

    def by(self, *names: str) -> dict[Any, Amount]:
        """Amounts by one of source, language, script, topic, mark; by several as tuples."""
        places = [(*_KEYS, "mark").index(name) for name in names]
        found: dict[Any, Amount] = {}
        for cell, amount in self.cells.items():
            key = tuple(cell[place] for place in places)
            found.setdefault(key[0] if len(key) == 1 else key, Amount()).add(amount.documents, amount.characters)
        return found


@dataclass(frozen=True)
class Corpus:
    """Files and what was counted in them. `tag` and `clean` are the summaries of these steps."""

    sources: list[Row]
    tag: Row
    clean: Row
    review: list[Row]
    tagged_path: Path
    clean_path: Path
    removed_path: Path
    before: Tally
    kept: Tally
    removed: Tally
    read_an_epoch: Mapping[str, Amount]  # by source: documents and characters, repeats counted

    def column(self, name: str) -> pa.ChunkedArray:
        """One column of the tagged documents."""
        return read_table(self.tagged_path, tagged_schema(), [name])[name]

    def languages(self) -> NDArray[np.object_]:
        """The language of each tagged document."""
        coded = self.column("language").combine_chunks().dictionary_encode()
        distinct = np.array([name or "und" for name in coded.dictionary.to_pylist()] or ["und"], dtype=object)
        found: NDArray[np.object_] = distinct[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
        return found

    def statistic(self, name: str) -> NDArray[np.float64]:
        """One statistic of every tagged document, NaN where it was not measured."""
        return read_statistic(self.tagged_path, name)

    def documents(self, rows: Iterable[int]) -> dict[int, Row]:
        """Some tagged documents by their row: id, title, author, language, topic, source, and how the text begins."""
        wanted = np.unique(np.fromiter(rows, np.int64))
        found: dict[int, Row] = {}
        columns = ["id", "text", "title", "author", "language", "topic", "contaminated_by", "provenance"]
        start = 0
        for batch in batches(self.tagged_path, tagged_schema(), columns):
            here = wanted[np.searchsorted(wanted, start) : np.searchsorted(wanted, start + len(batch))]
            for row, record in zip(here.tolist(), batch.take(here - start).to_pylist(), strict=True):
                record["source"] = (record.pop("provenance") or {}).get("source") or ""
                record["text"] = (record["text"] or "")[:_BEGINNING]
                found[row] = record
            start += len(batch)
        return found

    def rules_of(self, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Which of these documents were dropped: id to (rule, reason)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        wanted = pa.array(list(ids), pa.string())
        found: dict[str, tuple[str, str]] = {}
        for batch in batches(self.removed_path, removed_schema(), ["id", "rule", "reason"]):
            for row in batch.filter(pc.is_in(batch["id"], value_set=wanted)).to_pylist():
                found[row["id"]] = (row["rule"], row["reason"] or "")
        return found


class Measured(Mapping[str, "NDArray[np.float64]"]):
    """Statistics of the tagged documents by name, those that some document has; read when asked for, and not kept."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._names = [name for name in STATISTICS if not np.isnan(corpus.statistic(name)).all()]

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        if name not in self._names:
            raise KeyError(name)
        return self._corpus.statistic(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def gather(inputs: Mapping[str, Path]) -> Corpus:
    """Read and count. Raises InkwellError for a file that is missing, broken, or of another run than its neighbours."""
    raw, tagged, clean = inputs["raw"], inputs["tagged"], inputs["clean"]
    paths = (tagged / "documents.parquet", clean / "documents.parquet", clean / "removed.parquet")
    schemas = (tagged_schema(), clean_schema(), removed_schema())
    read_table(tagged / "duplicates.parquet", duplicates_schema(), ["a"])
    sources = _json(raw / "sources.json")
    marks = (None, "split", "rule")
    before, kept, removed = (tally(*each) for each in zip(paths, schemas, marks, strict=True))
    _check_books(before.total().documents, kept.total().documents, removed.total().documents, clean)
    return Corpus(
        sources=sources.get("sources", []) if isinstance(sources, dict) else sources,
        tag=_json(tagged / "summary.json"),
        clean=_json(clean / "summary.json"),
        review=_lines(clean / "review.jsonl"),
        tagged_path=paths[0],
        clean_path=paths[1],
        removed_path=paths[2],
        before=before,
        kept=kept,
        removed=removed,
        read_an_epoch=_read_an_epoch(paths[1]),
    )


def _check_books(before: int, kept: int, removed: int, clean: Path) -> None:
    if kept + removed != before:
        raise InkwellError(
            f"{clean} holds {kept:,} kept and {removed:,} dropped documents, data/tagged has {before:,}: run clean again, "
            "its input has changed since."
        )


def tally(path: Path, schema: pa.Schema, mark: str | None = None) -> Tally:
    """Count a documents file of that schema batch by batch; `mark` is a further column to count by."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = Tally()
    columns = ["text", "language", "script", "topic", "provenance", *([mark] if mark else [])]
    for batch in batches(path, schema, columns):
        lengths = pc.utf8_length(batch["text"].fill_null(""))
        keys = {
            "source": pc.struct_field(batch["provenance"], "source").fill_null(""),
            "language": batch["language"].fill_null("und"),
            "script": batch["script"].fill_null("Zyyy"),
            "topic": batch["topic"].fill_null(-1),
            "mark": batch[mark].fill_null("") if mark else pa.array([KEPT] * len(batch)),
        }
        table = pa.table({**keys, "characters": lengths}).group_by(list(keys))
        for row in table.aggregate([("characters", "count"), ("characters", "sum")]).to_pylist():
            amount = found.cells.setdefault(tuple(row[key] for key in keys), Amount())
            amount.add(row["characters_count"], row["characters_sum"])
        sizes = lengths.to_numpy(zero_copy_only=False)
        edges, which = np.unique(length_bins(sizes), return_inverse=True)
        counts, sums = np.bincount(which), np.bincount(which, weights=sizes)
        for edge, count, characters in zip(edges.tolist(), counts.tolist(), sums.tolist(), strict=True):
            found.lengths.setdefault(edge, Amount()).add(count, int(characters))
    return found


def length_bins(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """The largest of 1, 2, 5, 10, 20, 50 ... that is at most each length; 0 for 0."""
    edges = np.array(LENGTH_EDGES)
    found: NDArray[np.int64] = edges[np.searchsorted(edges, lengths, side="right") - 1]
    return found


def _read_an_epoch(path: Path) -> dict[str, Amount]:
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, Amount] = {}
    for batch in batches(path, clean_schema(), ["content", "repeats", "split", "provenance"]):
        train = pc.equal(batch["split"], "train")
        repeats = batch["repeats"].fill_null(1)
        table = pa.table(
            {
                "source": pc.struct_field(batch["provenance"], "source").fill_null(""),
                "repeats": repeats,
                "characters": pc.multiply(repeats, pc.cast(pc.utf8_length(batch["content"]), pa.int64())),
            }
        ).filter(train)
        for row in table.group_by("source").aggregate([("repeats", "sum"), ("characters", "sum")]).to_pylist():
            found.setdefault(row["source"], Amount()).add(row["repeats_sum"], row["characters_sum"])
    return found


def _unreadable(path: Path, why: object) -> InkwellError:
    return InkwellError(f"{path} cannot be read ({' '.join(str(why).split())}): run the step that writes it again.")


def _json(path: Path) -> Any:
    if not path.exists():
        raise InkwellError(f"{path} does not exist: run the step that writes it first (see `dvc dag`).")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
