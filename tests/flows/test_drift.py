"""Whether the corpus is still the champion's."""

from __future__ import annotations

import json
from pathlib import Path

from flows.drift import changes, sources_hash
from flows.promotion.registry import Version
from tests.flows.candidates import write_json


def _champion(workspace: Path, clean: str) -> Version:
    tags = {"inkwell.sources": sources_hash(workspace / "data" / "raw"), "inkwell.dvc.data/clean": clean}
    return Version("1", tags, "", "")


def test_a_corpus_is_another_when_its_sources_or_documents_are(tmp_path: Path) -> None:
    path = tmp_path / "data" / "raw" / "sources.json"
    write_json(path, [{"name": "a", "kind": "path", "sha256": "0" * 64, "members": [1, 2]}])
    (tmp_path / "dvc.lock").write_text(
        json.dumps({"stages": {"clean": {"outs": [{"path": "data/clean", "md5": "x.dir"}]}}})
    )
    champion = _champion(tmp_path, "x.dir")
    assert changes(tmp_path, champion) == []
    assert [change.what for change in changes(tmp_path, None)] == ["champion"]
    found = changes(tmp_path, _champion(tmp_path, "y.dir"))
    # no profile was kept, so that nobody can say how far: that counts as far, or `when: drifted` would wait for ever
    assert [(change.what, change.far) for change in found] == [("data/clean", False), ("distance", True)]
    write_json(path, [{"name": "a", "kind": "path", "sha256": "1" * 64, "members": [1, 2]}])
    assert [change.what for change in changes(tmp_path, champion)] == ["sources", "distance"]


def test_what_is_told_of_a_source_does_not_change_its_identity(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "sources.json", [{"name": "a", "sha256": "0"}, {"name": "b", "sha256": "1"}])
    write_json(
        tmp_path / "b" / "sources.json", [{"name": "b", "sha256": "1", "documents": 3}, {"name": "a", "sha256": "0"}]
    )
    assert sources_hash(tmp_path / "a") == sources_hash(tmp_path / "b") != ""
    assert sources_hash(tmp_path) == ""
