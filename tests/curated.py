"""Raw rows through the real tag and clean steps, for tests of several folders."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.configuration import Configuration, parse
from components.corpus.documents import raw_schema, read_table, write_documents
from components.step import Context, Step


def raw_row(text: str | None, number: int, title: str | None = None, author: str | None = None) -> dict[str, Any]:
    """A document of the raw schema."""
    return {
        "id": f"doc-{number}",
        "text": text,
        "title": title,
        "author": author,
        "metadata": json.dumps({"number": number}),
        "provenance": {"source": "s", "origin": "sha256:0", "member": "m", "row": number},
    }


def run_step(step: Step, configuration: Configuration, inputs: dict[str, Path], outputs: dict[str, Path]) -> Context:
    """Run a step's function in this process and return its context, with the metrics in it."""
    import shutil

    from components.step import _resolve
    from components.tracking import Recorder

    context = Context(step, configuration, inputs, outputs, Recorder.start(step, configuration, {}))
    _resolve(step.function)(context)
    for work in context._finished:
        shutil.rmtree(work)
    return context


def tag(
    folder: Path,
    rows: Sequence[Any],
    seed: int = 1,
    language: str = "zh",
    roles: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> Context:
    """Write raw rows (or bare texts) into `folder`/raw and tag them into `folder`/tagged, in one process."""
    from components.tag.__main__ import STEP

    for role, documents in {"documents": rows, **(roles or {})}.items():
        written = [row if isinstance(row, dict) else raw_row(row, number) for number, row in enumerate(documents)]
        write_documents(folder / "raw" / f"{role}.parquet", written, raw_schema())
    values = {
        "seed": seed,
        "language": language,
        "ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]},
        "tag": {"workers": 1, "topics": {"clusters": 0}, **parameters},
    }
    return run_step(STEP, parse(values), {"raw": folder / "raw"}, {"tagged": folder / "tagged"})


def clean(folder: Path, seed: int = 1, output: str = "clean", **parameters: Any) -> Context:
    """Clean `folder`/tagged into `folder`/`output`."""
    from components.clean.__main__ import STEP

    values = {
        "seed": seed,
        "ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]},
        "clean": parameters,
    }
    return run_step(STEP, parse(values), {"tagged": folder / "tagged"}, {"clean": folder / output})


def rows_of(path: Path, schema: Any) -> list[dict[str, Any]]:
    """All rows of a documents file."""
    found: list[dict[str, Any]] = read_table(path, schema).to_pylist()
    return found


def write_tagged(
    folder: Path, rows: Sequence[Mapping[str, Any]], pairs: Sequence[tuple[int, int, float]] = (), **summary: Any
) -> None:
    """`folder`/tagged as the tag step would leave it: rows name what matters (`tags`: statistics), the rest is filled in."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.corpus.statistics import STATISTICS
    from components.corpus.tagged_documents import duplicates_schema, tagged_schema

    written = []
    for number, row in enumerate(rows):
        text = row.get("text", "".join(chr(0x4E00 + (number * 8191 + at * at * 7919) % 20_000) for at in range(1, 21)))
        tags = {
            "characters": float(len(text)),
            "letters": 1.0,
            "symbols": 0.0,
            "repeated_lines": 0.0,
            "longest_run": 1.0,
        }
        plain = {"language": "zh", "script": "Hani", "topic": -1, "same_text": number, "cluster": number}
        measured = dict.fromkeys(STATISTICS) | tags | dict(row.get("tags", {}))
        provenance = {"source": row.get("source", "s"), "origin": "sha256:0", "member": "m", "row": number}
        given = {name: value for name, value in row.items() if name not in ("tags", "source")}
        written.append(
            {
                "contaminated_by": None,
                "repeated_spans": None,
                **raw_row(text, number),
                **plain,
                **given,
                "tags": measured,
                "provenance": provenance,
            }
        )
    (folder / "tagged").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(written, schema=tagged_schema()), folder / "tagged/documents.parquet")
    columns = list(zip(*pairs, strict=True)) if pairs else [(), (), ()]
    pq.write_table(
        pa.table([list(c) for c in columns], schema=duplicates_schema()), folder / "tagged/duplicates.parquet"
    )
    told = {"floor": 0.5, "shingle_characters": 3, "taken_out": {}, **summary}
    (folder / "tagged/summary.json").write_text(json.dumps(told), encoding="utf-8")
