"""A challenger becomes champion when it is better beyond the noise: real DVC, real MLflow, real models and exports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.promote import KEPT_CHAMPION, decide, main
from flows.registry import CHAMPION, CHALLENGER, PROMOTION, Registry
from tests.flows.candidates import export_of, make_pipeline, prepare, reproduce, set_parameter, write_json
from tests.tiny_corpus import clean_rows


@pytest.fixture(scope="session")
def exports(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, raw_folder: Path, clean_folder: Path, token_folder: Path
) -> dict[str, Path]:
    """The same small model twice: as it is, and with its embedding blown up, which costs it bits."""
    from safetensors.torch import load_file, save_file

    place = tmp_path_factory.mktemp("exports")
    worse = place / "worse"
    shutil.copytree(tiny_model, worse)
    weights = load_file(worse / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 40
    save_file(weights, worse / "model.safetensors", metadata={"format": "pt"})
    folders = (raw_folder, clean_folder, token_folder)
    return {
        "better": export_of(tiny_model, place / "a", *folders),
        "worse": export_of(worse, place / "b", *folders),
    }


@pytest.fixture
def candidates(tmp_path: Path, exports: dict[str, Path]) -> Any:
    """(the workspace, a function that lets its pipeline make another model)."""
    folder = tmp_path / "candidates"
    make_pipeline(folder)

    def make(export: str, skill: float, rows: list[dict[str, Any]] | None = None, seed: int = 1) -> None:
        prepare(folder, exports[export], rows or clean_rows(), skill, seed)
        reproduce(folder)

    return folder, make


def test_the_first_is_crowned_a_better_one_replaces_it_and_a_worse_one_does_not(
    candidates: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, make = candidates
    make("worse", 0.4)
    assert main(["--workspace", str(folder), "--by", "Ada"]) == 0
    registry = Registry(folder)
    first = registry.holder(CHAMPION)
    assert first is not None
    told = json.loads(first.tags[PROMOTION])
    assert (first.number, told["by"]) == ("1", "Ada")
    assert "first" in told["reason"]
    assert set(first.hashes) >= {"models/export", "data/evaluation", "data/clean"}

    make("better", 0.4, seed=2)
    capsys.readouterr()
    assert main(["--workspace", str(folder), "--plan"]) == 0
    assert capsys.readouterr().out.rstrip().rpartition("\n")[2].startswith("plan: the challenger is the champion")
    assert registry.holder(CHAMPION) == first
    assert main(["--workspace", str(folder)]) == 0
    second = registry.holder(CHAMPION)
    assert second is not None
    assert second.number == "2"
    assert registry.holder(CHALLENGER) is None
    assert "inkwell.dethroned" in registry.version("1").tags
    evidence = json.loads((folder / ".inkwell/promotion/inkwell-2/promotion.json").read_text())
    tasks = {task["task"]: task for task in evidence["tasks"]}
    assert tasks["bits_per_char"]["gain"] > 1
    assert tasks["bits_per_char"]["adjusted"] <= 0.05
    assert tasks["line_count"]["judged"] is False  # nothing was asked
    assert evidence["held_out"]["both"] == 40
    assert {check["name"] for check in evidence["checks"]} == {"validate", "hashes", "size", "speed"}
    stored = registry._client.list_artifacts(json.loads(second.tags[PROMOTION])["evidence"].split("/")[1])
    assert {item.path for item in stored} == {"promotion.json", "promotion.html"}

    # the same again changes nothing
    assert main(["--workspace", str(folder)]) == KEPT_CHAMPION
    assert "champion already" in capsys.readouterr().out

    make("worse", 0.4, seed=3)
    assert main(["--workspace", str(folder)]) == KEPT_CHAMPION
    assert registry.holder(CHAMPION) == second
    challenger = registry.holder(CHALLENGER)
    assert challenger is not None
    assert challenger.number == "3"
    assert "bits_per_char" in json.loads(challenger.tags["inkwell.refusal"])["reason"]
