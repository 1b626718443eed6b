"""Going back to an earlier champion, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.promote import main as promote
from flows.promotion.registry import CHAMPION, PROMOTION, Registry
from flows.rollback import main
from tests.flows.candidates import make_pipeline, prepare, reproduce
from tests.tiny_corpus import clean_rows


@pytest.fixture
def two_champions(tmp_path: Path, exports: dict[str, Path]) -> Path:
    """A workspace in which version 2 has taken the place of version 1."""
    folder = tmp_path / "two"
    make_pipeline(folder)
    for name, seed in (("worse", 1), ("better", 2)):
        prepare(folder, exports[name], clean_rows(), 0.4, seed)
        reproduce(folder)
        assert promote(["--workspace", str(folder)]) == 0
    return folder


def test_back_and_forth_with_the_files_in_a_folder(
    two_champions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run = ["--workspace", str(two_champions), "--by", "Ada", "--reason"]
    assert main([*run, "rude answers", "--checkout", str(out)]) == 0
    assert "version 1 is the champion in place of version 2" in capsys.readouterr().out
    registry = Registry(two_champions)
    champion: Any = registry.holder(CHAMPION)
    told = json.loads(champion.tags[PROMOTION])
    assert (champion.number, told["by"]) == ("1", "Ada")
    assert told["reason"] == "rollback from version 2: rude answers"
    from components.export.lineage import file_hash

    assert {name: file_hash(out / name) for name in champion.files} == champion.files
    assert main([*run, "it was not the model"]) == 0  # and forth: 2 was the champion before
    assert registry.holder(CHAMPION) == registry.version("2")
    assert main([*run, "x", "--to", "2"]) == 2
    assert "already" in capsys.readouterr().err
    assert main([*run, "x", "--to", "9"]) == 2
    assert "there is 1, 2" in capsys.readouterr().err
    assert main([*run, "  "]) == 2

    # the files of version 1 are gone from the cache, and there is no remote
    value = registry.version("1").hashes["models/export"]
    cache = two_champions / ".dvc" / "cache" / "files" / "md5"
    shutil.rmtree(cache / value[:2])
    assert main([*run, "x", "--to", "1"]) == 2
    assert "neither in DVC's cache nor on a remote" in capsys.readouterr().err
    assert registry.holder(CHAMPION) == registry.version("2")
