"""What the earlier steps left behind, read once; whatever is not there is empty, never guessed."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InkwellError

Row = dict[str, Any]
CurveRow = dict[str, float]

# The pipeline's steps in the order of the data's way; report itself is not among them.
STAGES = (
    "ingest",
    "tag",
    "clean",
    "validate",
    "tokenizer",
    "tokenize",
    "pretrain",
    "instruct",
    "sft",
    "align",
    "evaluate",
    "export",
)
MODELS = ("base", "sft", "aligned")


@dataclass(frozen=True)
class Evidence:
    """Everything that the page tells of. Metrics are {stage: {name: number}}; curves {stage: rows}."""

    metrics: Mapping[str, Mapping[str, float]]
    sources: list[Row]
    summary: Row
    documents: Path | None  # the clean documents, when they are there
    tokenizer: Path | None  # its folder
    curves: Mapping[str, list[CurveRow]]
    samples: list[Row]
    results: Row
    generations: list[Row]
    manifest: Row

    def metric(self, stage: str, name: str) -> float | None:
        """One figure of `metrics/<stage>.json`."""
        return self.metrics.get(stage, {}).get(name)


def gather(inputs: Mapping[str, Path]) -> Evidence:
    """Read the inputs of the report step. Raises InkwellError for a file that is there and cannot be read."""
    documents = inputs["clean"] / "documents.parquet"
    tokenizer = inputs["tokenizer"]
    metrics = {stage: _object(inputs["stage_metrics"] / f"{stage}.json") for stage in STAGES}
    sources = _json(inputs["raw"] / "sources.json", [])
    return Evidence(
        metrics={stage: _numbers(stage, found) for stage, found in metrics.items() if found},
        sources=sources.get("sources", []) if isinstance(sources, dict) else sources,
        summary=_object(inputs["clean"] / "summary.json"),
        documents=documents if documents.exists() else None,
        tokenizer=tokenizer if (tokenizer / "tokenizer.json").exists() else None,
        curves={stage: rows for stage in ("pretrain", "sft", "align") if (rows := _curve(inputs[f"{stage}_curve"]))},
        samples=_lines(inputs["samples"]),
        results=_object(inputs["evaluation"] / "results.json"),
        generations=_rows(inputs["evaluation"] / "generations.parquet"),
        manifest=_object(inputs["export"] / "manifest.json"),
    )


def _unreadable(path: Path, why: object) -> InkwellError:
    return InkwellError(f"{path} cannot be read ({' '.join(str(why).split())}): run the step that writes it again.")


def _json(path: Path, absent: Any) -> Any:
    if not path.exists():
        return absent
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _object(path: Path) -> Row:
    found = _json(path, {})
    if not isinstance(found, dict):
        raise _unreadable(path, "it holds no JSON object")
    return found


def _numbers(stage: str, found: Mapping[str, Any]) -> dict[str, float]:
    for name, value in found.items():
        if not isinstance(value, int | float):
            raise InkwellError(f"metrics/{stage}.json: {name} is no number: run the step {stage} again.")
    return dict(found)


def _curve(path: Path) -> list[CurveRow]:
    """Rows of a CSV of numbers; cells that are empty are left out of their row."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            return [{name: float(cell) for name, cell in row.items() if cell} for row in csv.DictReader(handle)]
    except (ValueError, TypeError, csv.Error) as error:
        raise _unreadable(path, error) from error


def _lines(path: Path) -> list[Row]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _rows(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        return []
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
        return rows
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise _unreadable(path, error) from error
