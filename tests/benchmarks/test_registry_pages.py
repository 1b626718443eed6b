"""The benchmark of the registry's pages in miniature: real commands over a real database that is multiplied."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks import registry_pages
from components.errors import InkwellError
from tests.flows import small_history as history


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, clean_folder: Path, tokenizer_folder: Path, token_folder: Path
) -> Iterator[Path]:
    """A workspace in which two pipelines have run; nothing is registered."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("INKWELL_TRACKING", "on")
        for number in ("1", "2"):
            patch.setenv("INKWELL_PIPELINE", number * 32)
            if number == "1":
                history.first_pipeline(clean_folder, tokenizer_folder, token_folder)
            else:
                history.second_pipeline()
        history.deliver()
        Path("metrics").mkdir()
        Path("metrics/pretrain.json").write_text(json.dumps({"seconds": 4.5}), encoding="utf-8")
        values = history.configuration(tracking={"enabled": True}).model_dump(mode="json", by_alias=True)
        Path("params.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        yield folder


def test_every_page_is_timed_and_the_workspace_is_left_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry_pages, "_TIMES", 1)
    before = {path: path.stat().st_mtime_ns for path in sorted(finished.rglob("*"))}
    found = registry_pages.measure(finished, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in sorted(finished.rglob("*"))} == before
    assert found["registry_runs"] >= 500
    assert found["registry_versions"] >= 100
    pages = ("report", "compare", "compare_workspaces", "lineage_back", "lineage_forward")
    for name in pages:
        assert 0 < found[f"{name}_seconds"] < 60
    for page in ("reports/index.html", "compare.html", "lineage.html"):
        assert "<html" in (tmp_path / "workspace" / page).read_text(encoding="utf-8")
    compared = json.loads((tmp_path / "workspace" / "compare.json").read_text(encoding="utf-8"))
    assert len(compared["documents"]["removed"]) == 1
    assert "registry-pages" in (tmp_path / "workspace" / "lineage.html").read_text(encoding="utf-8")


def test_copies_name_only_each_other(finished: Path, tmp_path: Path) -> None:
    database = tmp_path / "copy.db"
    database.write_bytes((finished / ".inkwell" / "mlflow.db").read_bytes())
    runs, versions = registry_pages.multiply(database, 60, 7)
    with sqlite3.connect(database) as base:
        assert base.execute("SELECT count(*) FROM runs").fetchone()[0] == runs >= 60
        assert versions == 7
        parents = "SELECT value, count(*) FROM tags WHERE key = 'mlflow.parentRunId' GROUP BY value"
        children = [count for _, count in base.execute(parents)]
        assert len(set(children)) <= 2, "a copy's steps belong to the copy's pipeline"
        dangling = (
            "SELECT count(*) FROM inputs WHERE source_type = 'DATASET' AND source_id NOT IN (SELECT dataset_uuid FROM datasets)",
            "SELECT count(*) FROM inputs WHERE destination_type = 'RUN' AND destination_id NOT IN (SELECT run_uuid FROM runs)",
            "SELECT count(*) FROM inputs WHERE source_type = 'RUN_OUTPUT' AND destination_id NOT IN (SELECT model_id FROM logged_models)",
            "SELECT count(*) FROM tags WHERE key = 'mlflow.parentRunId' AND value NOT IN (SELECT run_uuid FROM runs)",
            "SELECT count(*) FROM model_versions WHERE substr(source, 9) NOT IN (SELECT model_id FROM logged_models)",
        )
        for question in dangling:
            assert base.execute(question).fetchone()[0] == 0, question


def test_a_workspace_that_was_not_tracked_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match=r"tracking\.enabled=true"):
        registry_pages.measure(tmp_path, tmp_path / "out")
