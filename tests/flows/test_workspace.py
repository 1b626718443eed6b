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
from flows.workspace import COPIED, main, make_workspace


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


def test_what_was_changed_by_hand_is_told_and_a_file_of_parameters_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ours = tmp_path / "ws", tmp_path / "ours.yaml"
    command = [str(folder), "corpus=tang", "size=smoke"]
    assert main(command) == 0
    assert "composed anew" not in capsys.readouterr().out
    parameters = folder / "params.yaml"
    by_hand = parameters.read_text(encoding="utf-8").replace("\n  denied: []", "\n  denied: [tang-000017]")
    parameters.write_text(by_hand, encoding="utf-8")
    assert load(parameters).clean.denied == ["tang-000017"]
    assert main(command) == 0
    assert "other than what stood there: clean.denied.\n" in capsys.readouterr().out
    assert load(parameters).clean.denied == []
    # What has to stay stands in a file of its own.
    ours.write_text("clean: {denied: [tang-000017]}\n", encoding="utf-8")
    for told in (True, False):
        assert main([*command, str(ours)]) == 0
        assert ("clean.denied" in capsys.readouterr().out) == told
        assert load(parameters).clean.denied == ["tang-000017"]


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
