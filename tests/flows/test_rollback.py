"""Going back to an earlier champion, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.errors import InkwellError
from flows.promote import KEPT_CHAMPION
from flows.promote import main as promote
from flows.promotion.registry import CHAMPION, DETHRONED, PROMOTION, Registry, Version
from flows.rollback import former_champion, main
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

    # version 2 is still what the workspace holds, and better by the figures: that alone does not bring it back
    assert registry.version("2").withdrawn["reason"] == "rude answers"
    assert promote(["--workspace", str(two_champions)]) == KEPT_CHAMPION
    assert "version 2 was rolled back by Ada (rude answers)" in capsys.readouterr().out
    assert registry.holder(CHAMPION) == registry.version("1")
    assert main([*run, "it was not the model"]) == 0  # and forth: 2 was the champion before
    assert registry.holder(CHAMPION) == registry.version("2")
    assert registry.version("2").withdrawn == {}
    assert registry.version("1").withdrawn["by"] == "Ada"
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


def _version(number: str, crowned: str = "", dethroned: str = "") -> Version:
    times = {PROMOTION: crowned, DETHRONED: dethroned}
    return Version(number, {tag: json.dumps({"at": at}) for tag, at in times.items() if at}, "", "")


def test_the_champion_before_is_who_left_last_and_nobody_who_never_was() -> None:
    first, second = _version("1", "2026-01-01", "2026-02-01"), _version("2", "2026-02-01", "2026-03-01")
    now = _version("3", "2026-03-01")
    assert former_champion([first, second, now], now) == "2"
    # killed between its tag and the alias, and one that was only ever refused
    torn, refused = _version("4", "2026-04-01"), _version("5")
    assert former_champion([first, second, now, torn, refused], now) == "2"
    # killed between the alias and the tag of the one before
    assert former_champion([_version("2", "2026-02-01"), now], now) == "2"
    with pytest.raises(InkwellError, match="--to"):
        former_champion([now, torn, refused], now)
