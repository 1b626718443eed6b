"""A challenger becomes champion when it is better beyond the noise: real DVC, real MLflow, real models and exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.configuration import parse
from components.errors import InkwellError
from flows.promote import KEPT_CHAMPION, main
from flows.promotion.checks import speed
from flows.promotion.decision import Check, Task
from flows.promotion.registry import CHALLENGER, CHAMPION, PROMOTION, REFUSAL, Registry
from flows.promotion.verdict import verdict
from tests.flows.candidates import make_pipeline, prepare, reproduce, set_parameter
from tests.tiny_corpus import clean_rows


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
    assert json.loads((folder / ".inkwell/promotion/inkwell-2/promotion.json").read_text()) == evidence

    make("worse", 0.4, seed=3)
    assert main(["--workspace", str(folder)]) == KEPT_CHAMPION
    assert registry.holder(CHAMPION) == second
    challenger = registry.holder(CHALLENGER)
    assert challenger is not None
    assert challenger.number == "1"  # the very same export is the very same version
    assert "bits_per_char" in json.loads(challenger.tags[REFUSAL])["reason"]


def test_what_cannot_be_judged_or_trusted_is_refused_in_a_sentence(
    candidates: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, make = candidates
    assert main(["--workspace", str(folder)]) == 2  # nothing has run
    assert "out of date" in capsys.readouterr().err
    make("worse", 0.4)
    set_parameter(folder, "tracking", enabled=False)
    assert main(["--workspace", str(folder)]) == 2
    assert "tracking.enabled is false" in capsys.readouterr().err
    set_parameter(folder, "tracking", enabled=True)
    set_parameter(folder, "promotion", maximum_bytes=10)
    assert main(["--workspace", str(folder)]) == KEPT_CHAMPION  # not even the first
    assert "maximum bytes" in capsys.readouterr().out
    assert Registry(folder).holder(CHAMPION) is None


def test_another_corpus_is_judged_on_what_both_hold_out(candidates: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, make = candidates
    set_parameter(folder, "promotion", regressions={"title_overlap": 0.5})  # of tiny models on thirty documents
    rows = clean_rows()
    make("worse", 0.4, rows)
    assert main(["--workspace", str(folder)]) == 0
    # ten held-out documents are trained on now, and ten others held out
    moved = [row | {"split": "train"} if index % 40 == 0 else row for index, row in enumerate(rows)]
    moved = [row | {"split": "validation"} if index % 40 == 1 else row for index, row in enumerate(moved)]
    make("better", 0.4, moved, seed=2)
    assert main(["--workspace", str(folder)]) == 0
    evidence = json.loads((folder / ".inkwell/promotion/inkwell-2/promotion.json").read_text())
    assert evidence["held_out"] == {"both": 30, "champion": 40, "challenger": 40, "scored": 30}
    assert all(task["documents"] <= 30 for task in evidence["tasks"])
    page = (folder / ".inkwell/promotion/inkwell-2/promotion.html").read_text()
    assert "judged on the 30 that both hold out" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


def _task(**changes: Any) -> Task:
    values: dict[str, Any] = {"task": "next_line", "champion": 0.5, "challenger": 0.6, "gain": 0.1, "low": 0.05}
    values |= {"high": 0.15, "p": 0.001, "adjusted": 0.002, "documents": 100, "differing": 50, "bound": 0.05}
    return Task(**{**values, "judged": True, **changes})


def test_the_verdict_weighs_gains_bounds_and_checks() -> None:
    from components.configuration import Promotion

    promotion = Promotion()
    green = [Check("validate", True, "")]
    assert verdict([_task()], green, promotion)[0]
    assert not verdict([_task(adjusted=0.06)], green, promotion)[0]
    worse = _task(task="form", gain=-0.06, adjusted=1.0)
    assert verdict([_task(), _task(task="form", gain=-0.04, adjusted=1.0)], green, promotion)[0]
    promoted, why = verdict([_task(), worse], green, promotion)
    assert (promoted, "past the bound at form" in why) == (False, True)
    promoted, why = verdict([_task()], [Check("speed", False, "slow")], promotion)
    assert (promoted, why) == (False, "speed: slow")
    promoted, why = verdict([_task(judged=False, documents=7)], green, promotion)
    assert (promoted, "7 of the same documents" in why) == (False, True)


def test_a_speed_that_cannot_be_measured_is_no_speed() -> None:
    from components.configuration import Promotion

    promotion = Promotion()
    assert speed(("q8_0", 100.0, 70.0), promotion).holds
    assert not speed(("q8_0", 100.0, 69.0), promotion).holds
    found = speed(None, promotion)
    assert (found.holds, "promotion.minimum_speed: 0" in found.told) == (False, True)


@pytest.mark.parametrize("name", ["a/b", "..", "it's", ""])
def test_a_model_is_not_named_as_no_folder_can_be(name: str) -> None:
    with pytest.raises(InkwellError, match="registered_model"):
        parse(
            {
                "ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]},
                "promotion": {"registered_model": name},
            }
        )


def test_a_registry_that_is_away_is_one_sentence_without_its_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}
    address = "http://127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "robot")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted-5d20")
    (tmp_path / "params.yaml").write_text(json.dumps({**set_up, "tracking": {"uri": address}}))
    with pytest.raises(InkwellError) as error:
        Registry(tmp_path)
    assert "127.0.0.1:9 cannot be had" in str(error.value)
    assert "planted-5d20" not in str(error.value)
