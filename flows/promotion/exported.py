"""What a workspace has exported, as the registry knows it: manifest, hashes, tags."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from flows.promotion.registry import Version

EXPORT, EVALUATION, CLEAN = "models/export", "data/evaluation", "data/clean"
_ALSO_KEPT = ("data/raw", "reports/data_docs")


def read_manifest(export: Path) -> dict[str, Any]:
    """`manifest.json` of an export; InkwellError where there is none."""
    path = export / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["files"]
        assert found["model"]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InkwellError(f"{path} is no manifest of an export: run `dvc repro --force export`.") from error
    return dict(found)


def identity(workspace: Path) -> tuple[str, dict[str, str]]:
    """(first 32 digits of the export's content hash as MLflow knows it, DVC's hashes of what is kept of a version)."""
    from components.step import content_hash
    from flows.promotion.kept import locked

    return content_hash(workspace / EXPORT)[:32], locked(workspace, (EXPORT, EVALUATION, CLEAN), _ALSO_KEPT)


def tags(workspace: Path, manifest: Mapping[str, Any], hashes: Mapping[str, str]) -> dict[str, str]:
    """Tags of a version: what finds it, its files and its corpus again without MLflow's help."""
    from flows.drift import sources_hash
    from flows.promotion.registry import DVC, SHA256

    files = {f"{SHA256}{entry['file']}": str(entry["sha256"]) for entry in manifest["files"]}
    more = {"inkwell.name": str(manifest.get("name", "")), "inkwell.model": str(manifest["model"])}
    sources = sources_hash(workspace / "data" / "raw")
    return {**files, **{f"{DVC}{path}": value for path, value in hashes.items()}, **more} | (
        {"inkwell.sources": sources} if sources else {}
    )


def described(version: Version | None, manifest: Mapping[str, Any], digest: str) -> dict[str, Any]:
    """A version for the evidence: its number (None where it has none yet), digest and files."""
    return {
        "version": version.number if version else None,
        "digest": digest,
        "name": manifest.get("name"),
        "model": manifest["model"],
        "files": {entry["file"]: {"bytes": entry["bytes"], "sha256": entry["sha256"]} for entry in manifest["files"]},
    }
