"""A workspace of its own inside the project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.configuration import load
from components.errors import InkwellError
from flows.parameters import ROOT
from flows.workspace import COPIED, make_workspace


def test_a_workspace_is_complete_and_made_again_only_where_something_changed(tmp_path: Path) -> None:
    folder = tmp_path / "smoke"
    make_workspace(folder, ["corpus=tang", "size=smoke"])
    missing = [name for name in (*COPIED, "params.yaml", ".dvc") if not (folder / name).exists()]
    assert missing == [name for name in COPIED if not (ROOT / name).exists()]
    assert load(folder / "params.yaml").tokenizer.vocabulary == 4096
    config = (folder / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    assert "reflink,copy" in config
    assert not list(folder.rglob("*.pyc"))
    (folder / "data").mkdir()
    (folder / "data" / "kept.txt").write_text("an output")
    (folder / "components" / "left_over.py").write_text("gone from the project")
    (folder / "dvc.yaml").write_text("stages: {}\n")
    assert make_workspace(folder, ["corpus=tang", "size=smoke"]) == [folder / "dvc.yaml"]
    assert not (folder / "components" / "left_over.py").exists()
    assert (folder / "data" / "kept.txt").exists()
    assert make_workspace(folder, ["corpus=tang", "size=smoke", "seed=3"]) == [folder / "params.yaml"]
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert "pretrain" in status.stdout


def test_relative_paths_of_the_corpus_are_found_from_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_workspace(
        Path("ws"),
        ["ingest.sources=[{name: a, kind: path, location: texts/*.txt}, {name: b, kind: path, location: ~/b}]"],
    )
    sources = yaml.safe_load(Path("ws/params.yaml").read_text())["ingest"]["sources"]
    assert [source["location"] for source in sources] == [str(tmp_path / "texts" / "*.txt"), "~/b"]


def test_folders_that_are_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").write_text("dear")
    with pytest.raises(InkwellError, match="is no workspace"):
        make_workspace(tmp_path / "letters")
    with pytest.raises(InkwellError, match="the project itself"):
        make_workspace(ROOT)
    assert [path.name for path in (tmp_path / "letters").iterdir()] == ["one.txt"]
