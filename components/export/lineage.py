"""What an export was made of, as hashes that reach from the files back to the archives that the text came in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InkwellError
from components.step import content_hash
from components.vocabulary.spelling import identity, read_record

PARENTS: dict[str, list[str]] = {"base": [], "sft": ["base"], "aligned": ["sft"]}  # models by models


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes: what `sha256sum` prints."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_sources(raw: Path) -> list[dict[str, Any]]:
    """`sources.json` of the raw documents: one entry a source, with the hash of what was read.

    Raises InkwellError when the file is missing or broken.
    """
    path = raw / "sources.json"
    if not path.exists():
        raise InkwellError(f"{path} does not exist: run ingest again, the export's lineage begins there.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InkwellError(f"{path} is no JSON ({error}): run ingest again.") from error
    entries = found.get("sources", found) if isinstance(found, dict) else found
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InkwellError(f"{path} holds no list of sources: run ingest again.")
    return entries


def describe_lineage(model: str, inputs: Mapping[str, Path]) -> list[dict[str, Any]]:
    """The chain from the exported model to the archives, nearest first: {what, sha256, made_of}.

    Where the base model was continued from other weights, these are a link of their own, with name and licence.

    `inputs` are the export step's: raw, clean, tokens and the three models. A folder's hash is
    `components.step.content_hash`, a file's is its plain sha256.
    """
    chain: list[dict[str, Any]] = []
    tokenizer, began_with = identity(inputs[model]), read_record(inputs[model])
    initial = [f"initial/{began_with['model']}"] if began_with else []
    current: str | None = model
    while current is not None:
        parents = PARENTS[current]
        made_of = [f"models/{parent}" for parent in parents] or [*initial, "data/tokens", "models/tokenizer"]
        chain.append({"what": f"models/{current}", "sha256": content_hash(inputs[current]), "made_of": made_of})
        current = parents[0] if parents else None
    documents = [("clean", "data/clean", ["data/raw"]), ("raw", "data/raw", [])]
    chain.append(
        {"what": "data/tokens", "sha256": content_hash(inputs["tokens"]), "made_of": ["data/clean", "models/tokenizer"]}
    )
    chain.append({"what": "models/tokenizer", "sha256": file_hash(tokenizer), "made_of": [*initial, "data/clean"]})
    sources = read_sources(inputs["raw"])
    for name, what, made_of in documents:
        file = inputs[name] / "documents.parquet"
        if not file.exists():
            raise InkwellError(f"{file} does not exist: run the {'ingest' if name == 'raw' else name} step again.")
        chain.append(
            {
                "what": what,
                "sha256": file_hash(file),
                "made_of": made_of or [f"source/{s.get('name')}" for s in sources],
            }
        )
    chain += [{"what": f"source/{source.get('name')}", **source, "made_of": []} for source in sources]
    if began_with:
        chain.append(
            {"what": initial[0], "sha256": began_with["sha256"], "license": began_with["license"], "made_of": []}
        )
    return chain
