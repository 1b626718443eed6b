"""Retraining: on another corpus, never twice at once, and a plan that runs nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flows.promotion.registry import CHAMPION, Registry
from flows.retrain import lock_of, main, plan
from tests.flows.candidates import make_pipeline, prepare, set_parameter
from tests.tiny_corpus import clean_rows


def test_a_corpus_that_changed_is_trained_on_and_the_same_is_not(
    tmp_path: Path, exports: dict[str, Path], prefect_server: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "retrained"
    make_pipeline(folder)
    prepare(folder, exports["worse"], clean_rows(), 0.4)
    assert "There is no champion yet." in plan(folder, None)
    assert not (folder / "data").exists()
    assert main(["--workspace", str(folder)]) == 0
    assert "version 1 is the champion" in capsys.readouterr().out

    # a better model lies ready, but the corpus is the same
    prepare(folder, exports["better"], clean_rows(), 0.4)
    assert main(["--workspace", str(folder)]) == 0
    assert "Nothing to do" in capsys.readouterr().out

    prepare(folder, exports["better"], clean_rows(count=440), 0.4)
    assert main(["--workspace", str(folder)]) == 0
    champion = Registry(folder).holder(CHAMPION)
    assert champion is not None
    assert champion.number == "2"
    assert "the corpus has changed: sources" in champion.tags["inkwell.promotion"]


def test_two_at_once_are_refused(tmp_path: Path, prefect_server: None, capsys: pytest.CaptureFixture[str]) -> None:
    from components.tracking.delivery import exclusive

    folder = tmp_path / "locked"
    make_pipeline(folder)
    with exclusive(lock_of(folder)) as mine:
        assert mine
        assert main(["--workspace", str(folder)]) == 2
    assert "another retraining works here" in capsys.readouterr().err


def test_a_stage_that_fails_is_told_once(
    tmp_path: Path,
    exports: dict[str, Path],
    prefect_server: None,
    posts: tuple[str, list[tuple[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, received = posts
    monkeypatch.setenv("TEST_HOOK", f"{address}/hook")
    folder = tmp_path / "failing"
    make_pipeline(folder)
    prepare(folder, exports["worse"], clean_rows(), 0.4)
    set_parameter(folder, "notifications", webhook="env:TEST_HOOK")
    (folder / "made" / "metrics" / "clean.json").unlink()
    assert main(["--workspace", str(folder)]) == 1
    assert "failed: clean" in capsys.readouterr().err
    assert [body["text"] for _, body in received] == ["Retraining stopped: failed: clean"]
    assert Registry(folder).holder(CHAMPION) is None
