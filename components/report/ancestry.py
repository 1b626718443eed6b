"""The chain from the raw archive to the exported files, with every hash that can be checked here checked again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.report.evidence import Evidence
from components.step import content_hash
from components.vocabulary.spelling import identity


@dataclass(frozen=True)
class Link:
    """One thing in the chain. `holds` is True or False where the hash was checked, None where it was not."""

    what: str
    sha256: str
    made_of: list[str]
    note: str
    holds: bool | None
    how: str = "computed again"  # what was done to check


def chain(evidence: Evidence, inputs: Mapping[str, Path]) -> list[Link]:
    """Links from the sources to the exported files, as the manifest states them."""
    recorded = {str(source.get("name")): source.get("sha256") for source in evidence.sources}
    links = []
    for entry in reversed(evidence.manifest.get("lineage", [])):
        what, sha256 = str(entry.get("what")), str(entry.get("sha256") or "")
        if what.startswith("source/"):
            parts = (entry.get("kind"), entry.get("location"), entry.get("version"))
            known = recorded.get(what.removeprefix("source/"))
            holds = sha256 == known if known else None
            note, how = " ".join(str(part) for part in parts if part), "as ingest recorded"
        else:
            found = _hash_of(what, inputs)
            holds, note, how = (None if found is None else found == sha256), "", "computed again"
        links.append(Link(what, sha256, [str(parent) for parent in entry.get("made_of", [])], note, holds, how))
    return links


def files(evidence: Evidence, inputs: Mapping[str, Path]) -> list[tuple[dict[str, Any], bool | None]]:
    """Every exported file of the manifest, and whether its bytes still have the hash that the manifest states."""
    found = []
    for entry in evidence.manifest.get("files", []):
        path = inputs["export"] / str(entry["file"])
        found.append((entry, _file_hash(path) == entry["sha256"] if path.is_file() else None))
    return found


def _hash_of(what: str, inputs: Mapping[str, Path]) -> str | None:
    """The hash of a link as the export step computes it; None where it is no input of the report."""
    plain = {
        "data/raw": inputs["raw"] / "documents.parquet",
        "data/clean": inputs["clean"] / "documents.parquet",
    }
    if what in plain:
        return _file_hash(plain[what]) if plain[what].is_file() else None
    if what == "models/tokenizer" and (inputs["tokenizer"] / "tokenizer.json").is_file():
        return _file_hash(identity(inputs["tokenizer"]))
    if what == "data/tokens" and inputs["tokens"].is_dir():
        return content_hash(inputs["tokens"])
    return None


def _file_hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
