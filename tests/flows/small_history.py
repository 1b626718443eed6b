"""A pipeline's records in a real MLflow database: what the steps would tell, of files that are written here."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.configuration import Configuration, parse
from components.step import Step
from components.tracking import Recorder
from components.tracking.delivery import deliver_waiting, record_pipeline_end

SPOOL = Path(".inkwell/spool")
ARCHIVE = "ab" * 32
PROMOTION = {"at": "2026-11-22", "by": "a gate", "reason": "2 % fewer bits per character", "evidence": {"p": 0.01}}


class Spooled(Recorder):
    """A recorder whose records wait: one process delivers all of them, instead of one process for each."""

    def _send(self) -> None:
        return


def configuration(**sections: Any) -> Configuration:
    return parse({"ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "texts"}]}, **sections})


def record(name: str, inputs: Mapping[str, str], outputs: Mapping[str, str], **sections: Any) -> Recorder:
    """Tell of a step that has already written its outputs."""
    step = Step(name, f"The step {name}", "nowhere:run", inputs, outputs)
    recorder = Spooled.start(step, configuration(**sections), {n: Path(path) for n, path in inputs.items()})
    if name == "export":
        recorder.model("export-sft", Path("models/export"), [Path("models/sft")])
    recorder.finish("FINISHED", {"seconds": 4.5}, {n: Path(path) for n, path in outputs.items()})
    return recorder


def model(folder: str, weights: str) -> None:
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text('{"hidden_size": 8}', encoding="utf-8")
    (path / "model.safetensors").write_text(weights, encoding="utf-8")


def write_corpus(clean: Path) -> None:
    """data/raw and data/clean, with one document that was removed as a duplicate of the first that is trained on."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from components.corpus.documents import clean_schema, iterate, removed_schema

    Path("data/raw").mkdir(parents=True)
    Path("data/raw/documents.parquet").write_bytes(b"raw")
    source = {"name": "tiny", "kind": "npm", "location": "tiny", "version": "1.0", "sha256": ARCHIVE, "license": "MIT"}
    Path("data/raw/sources.json").write_text(json.dumps([source]), encoding="utf-8")
    shutil.copytree(clean, "data/clean")
    rows = iterate(clean / "documents.parquet", clean_schema())
    first = next(row for row in rows if row["split"] == "train")
    schema = removed_schema()
    twin = {name: first.get(name) for name in schema.names}
    twin |= {"id": "twin", "rule": "near_duplicate", "reason": "alike", "duplicate_of": first["id"]}
    pq.write_table(pa.Table.from_pylist([twin], schema=schema), "data/clean/removed.parquet")


def write_export(weights: str) -> str:
    """models/export with one file; returns the file's sha256."""
    Path("models/export").mkdir(parents=True, exist_ok=True)
    Path("models/export/tiny.gguf").write_text(weights, encoding="utf-8")
    return hashlib.sha256(weights.encode()).hexdigest()


def first_pipeline(clean: Path, tokenizer: Path, tokens: Path) -> str:
    """Files and records of a whole pipeline in the current folder; returns the exported file's sha256."""
    write_corpus(clean)
    record("ingest", {}, {"output": "data/raw"})
    record("clean", {"raw": "data/raw"}, {"clean": "data/clean"}, clean={"jaccard": 0.75})
    shutil.copytree(tokenizer, "models/tokenizer")
    record("tokenizer", {"documents": "data/clean"}, {"tokenizer": "models/tokenizer"})
    shutil.copytree(tokens, "data/tokens")
    record("tokenize", {"documents": "data/clean", "tokenizer": "models/tokenizer"}, {"tokens": "data/tokens"})
    model("models/base", "base weights")
    record("pretrain", {"tokens": "data/tokens", "tokenizer": "models/tokenizer"}, {"model": "models/base"})
    model("models/sft", "sft weights")
    record("sft", {"base": "models/base"}, {"model": "models/sft"}, sft={"steps": 7})
    sha256 = write_export("exported")
    record("export", {**_ALL, "base": "models/base", "sft": "models/sft"}, {"export": "models/export"})
    return sha256


def second_pipeline() -> str:
    """Only sft and export ran again; the rest was found unchanged. Returns the exported file's sha256."""
    from components.step import content_hash

    model("models/sft", "other sft weights")
    record("sft", {"base": "models/base"}, {"model": "models/sft"}, sft={"steps": 8})
    sha256 = write_export("exported again")
    record("export", {**_ALL, "base": "models/base", "sft": "models/sft"}, {"export": "models/export"})
    unchanged = {"pretrain": {"models/base": content_hash(Path("models/base"))[:32]}}
    header = {"pipeline": "2" * 32, "uri": uri(), "experiment": "inkwell", "artifacts": None}
    record_pipeline_end(SPOOL, header, unchanged, "FINISHED")
    return sha256


_ALL = {"raw": "data/raw", "clean": "data/clean", "tokens": "data/tokens"}


def uri() -> str:
    return f"sqlite:///{Path('.inkwell/mlflow.db').absolute().as_posix()}"


def deliver() -> None:
    delivered, left = deliver_waiting(SPOOL)
    assert delivered
    assert left == 0, [file.read_text() for file in SPOOL.glob("*/delivery.log")]


def register(client: Any, digest: str, alias: str) -> None:
    """A version of the model `poet` for what was exported with this content hash."""
    experiments = [found.experiment_id for found in client.search_experiments()]
    (found,) = client.search_logged_models(experiments, f"tags.`inkwell.digest` = '{digest}'")
    if not client.search_registered_models("name = 'poet'"):
        client.create_registered_model("poet")
    made = client.create_model_version("poet", f"models:/{found.model_id}", found.source_run_id)
    client.set_registered_model_alias("poet", alias, made.version)
    if alias == "champion":
        client.set_model_version_tag("poet", made.version, "inkwell.promotion", json.dumps(PROMOTION))
