"""Whether the corpus of a workspace is another one than the champion's, and how far it lies from it."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import InkwellError

if TYPE_CHECKING:
    from components.validate.drift import Comparison
    from flows.promotion.registry import Version

_IDENTITY = ("name", "kind", "location", "role", "version", "sha256")  # of a source; the rest is told of what was read
_PROFILE = "reports/data_docs"


@dataclass(frozen=True)
class Change:
    """One difference from the champion's corpus. `far`: further than validate.drift allows."""

    what: str
    told: str
    far: bool = False


def sources_hash(raw: Path) -> str:
    """sha256 of what ingest read, source by source; "" where that is not known."""
    entries = _sources(raw)
    if not entries:
        return ""
    identity = [{name: entry.get(name) for name in _IDENTITY} for entry in entries]
    text = json.dumps(sorted(identity, key=str), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sources(raw: Path) -> list[dict[str, Any]]:
    try:
        found = json.loads((raw / "sources.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    entries = found.get("sources", found) if isinstance(found, dict) else found
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def changes(workspace: Path, champion: Version | None) -> list[Change]:
    """How the workspace's corpus differs from the champion's; empty where it is the same, byte for byte.

    Sources and documents are compared by hash, distributions by the measures of the validation step. The pipeline has to
    have run up to `validate`.
    """
    from flows.promotion.kept import locked

    if champion is None:
        return [Change("champion", "there is none yet")]
    found = []
    sources = sources_hash(workspace / "data" / "raw")
    if sources and champion.tags.get("inkwell.sources", sources) != sources:
        found.append(Change("sources", f"sources {champion.tags['inkwell.sources'][:12]} → {sources[:12]}"))
    now = locked(workspace, (), ("data/raw", "data/clean"))
    for path, value in now.items():
        before = champion.hashes.get(path)
        if before and before != value:
            found.append(Change(path, f"{path} {before[:12]} → {value[:12]}"))
    if found:  # the same bytes have the same distributions
        try:
            found += [Change(one.what, one.told, far=True) for one in distances(workspace, champion) if one.drifted]
        except InkwellError:
            # `when: drifted` would wait for ever for a distance that nobody can measure
            told = "how far it lies cannot be measured (validation's profile of one of the two is lost), which counts as far"
            found.append(Change("distance", told, far=True))
    return found


def distances(workspace: Path, champion: Version) -> list[Comparison]:
    """Every distribution of the champion's corpus beside the workspace's; InkwellError where one of the profiles cannot be had."""
    from components.configuration import load
    from components.validate.drift import compare
    from components.validate.profile import read
    from flows.promotion.kept import fetch

    here = workspace / _PROFILE / "profile.json"
    if _PROFILE not in champion.hashes:
        raise InkwellError(f"version {champion.number} was registered without {_PROFILE}.")
    allowed = load(workspace / "params.yaml").validate_.drift
    with tempfile.TemporaryDirectory() as name:
        fetch(workspace, {_PROFILE: champion.hashes[_PROFILE]}, Path(name))
        return compare(read(Path(name) / _PROFILE / "profile.json"), read(here), allowed)
