"""The gate over files that a test writes: every contract, small, and good until a test spoils it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.corpus.conversations import conversation_schema, preference_schema
from components.corpus.documents import clean_schema, raw_schema, removed_schema, write_documents
from components.corpus.statistics import STATISTICS
from components.corpus.tagged_documents import tagged_schema
from tests.tiny_corpus import clean_rows

Rows = list[dict[str, Any]]
Gate = Callable[..., dict[str, float]]


def documents(count: int = 400, language: str = "zh", **changes: Any) -> Rows:
    """Clean documents: the tiny corpus with every column of the contract."""
    script = {"zh": "Hani", "ru": "Cyrl", "en": "Latn"}[language]
    tags = {"language": language, "script": script, "topic": -1, "repeats": 1, "noise": None}
    rows = [row | tags | changes for row in clean_rows(count)]
    for row in rows:
        row["provenance"] = row["provenance"] | {"origin": "sha256:0"}
    return rows


def _restrict(rows: Rows, names: list[str], **more: Any) -> Rows:
    return [{name: value for name, value in (more | row).items() if name in names} for row in rows]


def write(rows: Rows, dropped: int = 0, roles: dict[str, Rows] | None = None) -> None:
    """Write `raw`, `tagged` and `clean` of these documents and of `dropped` more into the working folder."""
    gone = [row | {"id": f"gone-{row['id']}"} for row in documents(dropped)]
    write_documents(Path("raw/documents.parquet"), _restrict([*rows, *gone], raw_schema().names), raw_schema())
    for role, those in (roles or {}).items():
        write_documents(Path(f"raw/{role}.parquet"), _restrict(those, raw_schema().names), raw_schema())
    tagged = [
        row | {"tags": dict.fromkeys(STATISTICS) | {"characters": float(len(row["text"] or ""))}}
        for row in _restrict([*rows, *gone], tagged_schema().names, same_text=0, cluster=0)
    ]
    tagged = [row | {"cluster": 0} for row in tagged]
    write_documents(Path("tagged/documents.parquet"), tagged, tagged_schema())
    write_documents(Path("clean/documents.parquet"), rows, clean_schema())
    removed = _restrict(gone, removed_schema().names, rule="empty", reason="-")
    write_documents(Path("clean/removed.parquet"), removed, removed_schema())


def conversations(rows: Rows) -> Rows:
    """One conversation a document."""
    return [
        {
            "id": f"{row['id']}-0",
            "document_id": row["id"],
            "kind": ("write", "write_in_style", "continue", "who_wrote")[index % 4],
            "split": row["split"],
            "form": None,
            "messages": [
                {"role": "user", "content": f"写：{row['id']} {row['title']}"},
                {"role": "assistant", "content": row["text"]},
            ],
        }
        for index, row in enumerate(rows)
    ]


def preferences(rows: Rows) -> Rows:
    """One pair a training document; the longer answer is chosen in half of them."""
    pairs = []
    for index, row in enumerate(row for row in rows if row["split"] == "train"):
        prompt = [{"role": "user", "content": f"写：{row['id']}"}]
        other = row["text"][:-3] if index % 2 else row["text"] + "春山"
        made = "corrupted: cut" if index % 2 else "sampled: faultless"
        pairs.append(
            {"id": f"{row['id']}-0:x", "document_id": row["id"], "prompt": prompt, "chosen": row["text"], "rejected": other, "made": made, "form": 5}
        )  # fmt: skip
    return pairs


def write_conversations(rows: Rows) -> None:
    """Write them as they stand, contract or not."""
    write_documents(Path("instruct/conversations.parquet"), rows, conversation_schema())


def write_preferences(rows: Rows) -> None:
    """Write them as they stand, contract or not."""
    write_documents(Path("preferences/preferences.parquet"), rows, preference_schema())


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Run the step of a contract on the files of the working folder; returns its metrics."""
    from components.configuration import parse
    from components.step import Context, _resolve
    from components.tracking import Recorder
    from components.validate.__main__ import STEPS

    monkeypatch.chdir(tmp_path)

    def attempt(contract: str = "documents", output: str = "out", **parameters: Any) -> dict[str, float]:
        sections = {name: parameters.pop(name) for name in ("clean", "tag", "ingest", "instruct") if name in parameters}
        configuration = parse(
            {
                "ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "a"}]},
                "clean": {"validation_fraction": 0.1},
                "validate": {"minimum_characters": 100, **parameters},
                **sections,
            }
        )
        step = STEPS[contract]
        inputs = {name: Path(name) for name in step.inputs}
        outputs = {name: Path(output) / name for name in step.outputs}
        context = Context(step, configuration, inputs, outputs, Recorder.start(step, configuration, {}))
        _resolve(step.function)(context)
        return context.metrics

    return attempt
