"""A small run's files in the shapes that the steps write them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.step import content_hash

HOSTILE = "<script>alert('题')</script>"


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_curve(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def generation(model: str, document: str, title: str, form: int | None) -> dict[str, Any]:
    text = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
    return {
        "model": model,
        "task": "five_char_lines" if form else "continuation",
        "document": document,
        "prompt": f"写一首五言诗，题为《{title}》。",
        "title": title,
        "form": form,
        "lines": None,
        "text": f"{model} {HOSTILE} {text}",
        "finished": True,
        "line_lengths": [5, 5, 5, 5] if form else [],
        "ok": True,
        "counted": True,
        "verbatim_characters": 0,
    }


@pytest.fixture
def workspace(tmp_path: Path, clean_folder: Path, tokenizer_folder: Path, token_folder: Path) -> Path:
    """Every file that the report reads, with text that would like to be markup."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.corpus.documents import VALIDATION, clean_schema, iterate

    for source, target in (
        (clean_folder, "data/clean"),
        (tokenizer_folder, "models/tokenizer"),
        (token_folder, "data/tokens"),
    ):
        shutil.copytree(source, tmp_path / target)
    (tmp_path / "data/raw").mkdir()
    (tmp_path / "data/raw/documents.parquet").write_bytes(b"raw documents")
    source = {
        "name": HOSTILE,
        "kind": "path",
        "location": f"texts/{HOSTILE}",
        "version": None,
        "sha256": "a" * 64,
        "license": "CC0-1.0",
        "documents": 400,
        "characters": 12345,
        "bytes_read": 37035,
        "members": [{"name": "one.json", "documents": 200}, {"name": "two.json", "documents": 200}],
    }
    write_json(tmp_path / "data/raw/sources.json", [source])
    write_json(
        tmp_path / "data/clean/summary.json",
        {
            "examples": {
                "too_short": [
                    {
                        "id": "x",
                        "title": HOSTILE,
                        "begins": HOSTILE,
                        "reason": "it has 3 characters",
                        "duplicate_of": None,
                    }
                ]
            },
            "length_histogram": {"train": [[20, 300], [50, 60]], "validation": [[20, 40], [50, 0]]},
            "authors": {"distinct": 4, "most": [[HOSTILE, 100], ["周墨", 100]]},
            "characters": {"distinct": 70, "most": [["春", 120]]},
        },
    )
    metrics: dict[str, dict[str, float]] = {
        "ingest": {"documents": 400, "seconds": 3.5, "peak_gib": 0.21},
        "clean": {
            "documents_in": 421,
            "documents_kept": 400,
            "documents_dropped": 21,
            "dropped_too_short": 17,
            "dropped_<b>odd</b>": 4,
            "train_documents": 360,
            "train_characters": 14000,
            "validation_documents": 40,
            "validation_characters": 1500,
            "kneser_ney_bits_per_char": 7.25,
            "kneser_ney_order": 5,
            "seconds": 13.25,
            "peak_gib": 1.1,
        },
        "validate": {"expectations": 16, "expectations_failed": 0, "seconds": 4, "peak_gib": 0.4},
        "tokenizer": {"vocabulary": 512, "tokens_per_character": 0.8125, "characters_covered": 0.995, "seconds": 2, "peak_gib": 0.3},
        "tokenize": {"train_tokens": 9876, "seconds": 1.5, "peak_gib": 0.35},
        "pretrain": {"val_bits_per_char": 5.4375, "parameters": 1234567, "tokens": 9000, "epochs": 1.5, "tokens_per_second": 800.4, "model_flops_utilisation": 0.5713, "seconds": 600, "peak_gib": 2.5},
        "instruct": {"conversations": 420, "seconds": 5, "peak_gib": 0.5},
        "sft": {"validation_answer_loss": 2.125, "epochs": 2, "seconds": 60, "peak_gib": 2},
        "align": {"pairs": 64, "validation_accuracy": 0.875, "seconds": 30, "peak_gib": 2.2},
        "evaluate": {"sft.five_char_lines": 0.9375, "seconds": 45, "peak_gib": 1.5},
        "export": {"kl_q8_0": 0.0000123, "bits_per_char_q8_0": 5.46, "top_token_q8_0": 0.98, "greedy_identical_q8_0": 1, "seconds": 20, "peak_gib": 0.7},
        "report": {"seconds": 98765.4321, "peak_gib": 77.7},
    }  # fmt: skip
    for stage, found in metrics.items():
        write_json(tmp_path / f"metrics/{stage}.json", found)
    steps = range(1, 601)
    write_curve(
        tmp_path / "data/curves/pretrain.csv",
        [
            {"step": s, "tokens": 15, "loss": 8 - s / 200, "gradient_norm": 1, "rate_factor": 1}
            | ({"validation_bits_per_char": 8 - s / 250} if s % 100 == 0 else {})
            for s in steps
        ],
    )
    write_curve(
        tmp_path / "data/curves/sft.csv",
        [
            {"step": s, "tokens": 9, "loss": 3 - s / 30} | ({"validation_answer_loss": 2.5} if s % 10 == 0 else {})
            for s in range(1, 21)
        ],
    )
    write_curve(
        tmp_path / "data/curves/align.csv",
        [{"step": s, "loss": 1, "margin": s / 10, "accuracy": 0.5 + s / 40} for s in range(1, 11)],
    )
    (tmp_path / "data/samples").mkdir()
    (tmp_path / "data/samples/pretrain.jsonl").write_text(
        "".join(json.dumps({"step": s, "texts": [f"sample at {s} {HOSTILE}", ""]}) + "\n" for s in range(50, 601, 50)),
        encoding="utf-8",
    )
    held_out = [
        row for row in iterate(tmp_path / "data/clean/documents.parquet", clean_schema()) if row["split"] == VALIDATION
    ]
    rows = [
        generation(model, row["id"], f"{row['title']} {HOSTILE}", None if model == "base" else 5)
        for model in ("base", "sft", "aligned")
        for row in held_out[:9]
    ]
    (tmp_path / "data/evaluation").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/evaluation/generations.parquet")
    score = {"value": 0.9375, "n": 500, "low": 0.912, "high": 0.956, "stderr": 0.011}
    write_json(
        tmp_path / "data/evaluation/results.json",
        {
            "scores": {
                "base.next_line": {**score, "value": 0.4125, "low": 0.35, "high": 0.47},
                "sft.next_line": {**score, "value": 0.4375, "low": 0.38, "high": 0.49},
                "sft.five_char_lines": score,
                "aligned.distinct_lines": {"value": 0.75, "n": 80},
                "aligned.new_score": {"value": 3.25, "n": 8},
            },
            "questions": {
                "documents": 40,
                "titles": 9,
                "titles_unseen": 7,
                "next_line_questions": 40,
                "validation_documents": 40,
            },
            "left_out": {"line_count": f"nothing to count {HOSTILE}"},
            "chance": {"next_line": 0.25},
            "sampling": {"temperature": 0.7, "top_p": 0.95},
            "verbatim_run": 20,
        },
    )
    export = tmp_path / "models/export"
    (export / "huggingface").mkdir(parents=True)
    (export / "tiny-q8_0.gguf").write_bytes(b"GGUF" * 1000)
    (export / "huggingface/config.json").write_text("{}")
    write_json(
        export / "manifest.json",
        {
            "name": "tiny",
            "model": "aligned",
            "architecture": "Qwen3ForCausalLM",
            "parameters": 1234567,
            "example": {"messages": [{"role": "user", "content": f"it's {HOSTILE}"}]},
            "files": [
                {"file": "tiny-q8_0.gguf", "format": "gguf q8_0", "bytes": 4000, "sha256": sha256(export / "tiny-q8_0.gguf"), "tensors_by_type": {"Q8_0": 15, "F32": 9}, "fallbacks": []},
                {"file": "huggingface/config.json", "format": "json", "bytes": 2, "sha256": "0" * 64},
            ],
            "lineage": [
                {"what": "models/aligned", "sha256": "c" * 64, "made_of": ["models/sft"]},
                {"what": "data/tokens", "sha256": content_hash(tmp_path / "data/tokens"), "made_of": ["data/clean", "models/tokenizer"]},
                {"what": "data/clean", "sha256": sha256(tmp_path / "data/clean/documents.parquet"), "made_of": ["data/raw"]},
                {"what": "data/raw", "sha256": "d" * 64, "made_of": [f"source/{HOSTILE}"]},
                {"what": f"source/{HOSTILE}", "name": HOSTILE, "kind": "path", "location": "texts", "version": None, "sha256": "a" * 64, "made_of": []},
            ],
        },
    )  # fmt: skip
    (tmp_path / "params.yaml").write_text(
        "language: zh\ningest: {sources: [{name: tiny, kind: path, location: texts}]}\ntracking: {enabled: false}\n",
        encoding="utf-8",
    )
    return tmp_path
