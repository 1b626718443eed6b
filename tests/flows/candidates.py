"""Workspaces with a model to promote: a real DVC pipeline whose stages hand over what was prepared in `made/`."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from components.corpus.documents import VALIDATION, clean_schema, write_documents
from components.evaluate.stage import GENERATIONS_FILE, NEXT_LINE_FILE, _choice_schema, _generation_schema, _write_table
from flows.processes import environment

_COPY = "python -c \"import shutil; [shutil.copytree('made/' + p, p, dirs_exist_ok=True) for p in '{}'.split()]\""
STAGES = {
    "ingest": ("data/raw", ""),
    "clean": ("data/clean", "data/raw"),
    "validate": ("reports/data_docs", "data/clean"),
    "evaluate": ("data/evaluation", "data/clean"),
    "export": ("models/export", "data/clean"),
}
PARAMETERS: dict[str, Any] = {
    "language": "zh",
    "ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "nowhere"}]},
    "promotion": {"minimum_documents": 20, "resamples": 2000, "minimum_speed": 0.05},
}


def make_pipeline(folder: Path) -> None:
    """A repository whose stages copy from `made/`; nothing has run yet."""
    stages: dict[str, Any] = {}
    for name, (out, before) in STAGES.items():
        metrics = f"metrics/{name}.json"
        stages[name] = {
            "cmd": [_COPY.format(out), f"python -c \"import shutil; shutil.copyfile('made/{metrics}', '{metrics}')\""],
            "deps": [f"made/{out}", f"made/{metrics}", *([before] if before else [])],
            "outs": [out],
            "metrics": [{metrics: {"cache": False}}],
        }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMETERS), encoding="utf-8")
    (folder / "metrics").mkdir(exist_ok=True)
    for name in STAGES:
        write_json(folder / "made" / "metrics" / f"{name}.json", {"expectations": 5, "expectations_failed": 0})
    write_json(folder / "made" / "reports" / "data_docs" / "outcomes.json", [])
    _dvc(folder, "init", "--no-scm", "-q")


def set_parameter(folder: Path, section: str, **values: Any) -> None:
    """Change params.yaml."""
    found = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    found.setdefault(section, {}).update(values)
    (folder / "params.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """A JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def prepare(folder: Path, export: Path, rows: list[dict[str, Any]], skill: float, seed: int = 1) -> None:
    """Put what the pipeline shall make next into `made/`: the export, the corpus, and answers right by chance `skill`."""
    made = folder / "made"
    shutil.rmtree(made / "models", ignore_errors=True)
    shutil.copytree(export, made / "models" / "export")
    write_documents(made / "data" / "clean" / "documents.parquet", rows, clean_schema())
    (made / "data" / "raw").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(made / "data/clean/documents.parquet", made / "data/raw/documents.parquet")
    source = {"name": "tiny", "kind": "path", "location": "nowhere", "sha256": f"{len(rows):064}"}
    write_json(made / "data" / "raw" / "sources.json", [source])
    rng = random.Random(seed)
    held_out = [row for row in rows if row["split"] == VALIDATION]
    generations, choices = [], []
    for row in held_out:
        right = rng.random() < skill
        generations.append(
            {
                "model": "base",
                "task": "five_char_lines",
                "document": row["id"],
                "prompt": f"写一首五言诗，题为《{row['title']}》。",
                "title": row["title"],
                "form": 5,
                "lines": None,
                "text": row["title"] if rng.random() < skill else "落花",
                "finished": True,
                "line_lengths": [5, 5],
                "ok": right,
                "counted": True,
                "verbatim_characters": 0,
            }
        )
        choices.append(
            {
                "model": "base",
                "document": row["id"],
                "context": row["title"],
                "choices": [row["text"][:5], "白云满空城"],
                "gold": 0,
                "logprobs": [-1.0, -2.0],
                "right": rng.random() < skill,
            }
        )
    evaluation = made / "data" / "evaluation"
    evaluation.mkdir(parents=True, exist_ok=True)
    _write_table(evaluation / GENERATIONS_FILE, generations, _generation_schema())
    _write_table(evaluation / NEXT_LINE_FILE, choices, _choice_schema())


def reproduce(folder: Path) -> None:
    """Run the pipeline."""
    _dvc(folder, "repro", "-q")


def _dvc(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=folder, env=environment(), check=True)


def export_of(model: Path, target: Path, raw: Path, clean: Path, tokens: Path) -> Path:
    """`models/export` of a model folder, by the real step."""
    from components.export.__main__ import STEP
    from components.step import main

    target.mkdir(parents=True)
    parameters = {**PARAMETERS, "tracking": {"enabled": False}}
    parameters["export"] = {
        "model": "base",
        "formats": ["q8_0"],
        "comparison_documents": 2,
        "comparison_prompts": 1,
        "comparison_tokens": 4,
    }
    (target / "params.yaml").write_text(yaml.safe_dump(parameters), encoding="utf-8")
    files = {"raw": raw, "clean": clean, "tokens": tokens, "base": model, "sft": model, "aligned": model}
    files |= {"export": target / "export", "metrics": target / "export.json"}
    options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main(STEP, ["--params", str(target / "params.yaml"), *options]) == 0
    return target / "export"
