"""The scaling study: its law on planted runs, and the whole of it with models that train for seconds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from components.errors import InkwellError
from components.scaling import PUBLISHED, Run
from flows.scaling.__main__ import main
from flows.scaling.findings import in_words, write
from flows.scaling.law import best_at, fit, require
from flows.scaling.record import record
from flows.scaling.study import judged
from tests.flows.test_ablate import CORPUS, ROOT
from tests.tiny_corpus import poems

TRUTH = replace(PUBLISHED, irreducible=1.5, capacity=200.0, data=900.0, excess=float("inf"))
UNIQUE = 4e6


def planted(noise: float = 0.01, seed: int = 3) -> list[Run]:
    draw = random.Random(seed)
    return [
        Run(n, d, UNIQUE, TRUTH.loss(n, d, UNIQUE) + draw.gauss(0, noise))
        for n in (4e5, 9e5, 1.4e6, 2.7e6, 4.5e6)
        for d in (3e5, 6e5, 1.2e6)
    ]


def test_a_planted_law_is_found_and_foretells_a_larger_run() -> None:
    found = fit(planted(), replicates=60)
    larger = TRUTH.loss(9.3e6, 2.4e6, UNIQUE)
    band = found.predicted(9.3e6, 2.4e6, UNIQUE)
    assert larger in band
    assert band.high - band.low < 0.15
    assert larger + 0.5 not in band
    narrow = found.mean(9.3e6, 2.4e6, UNIQUE)
    assert narrow.high - narrow.low < band.high - band.low
    for name, of in found.scales().items():
        assert of.value == pytest.approx(getattr(TRUTH, name), rel=0.05), name
    assert abs(sum(found.residuals())) < 0.05


def test_the_band_holds_the_truth_nineteen_times_of_twenty() -> None:
    inside = 0
    for seed in range(40):
        draw = random.Random(1000 + seed)
        measured = TRUTH.loss(9.3e6, 2.4e6, UNIQUE) + draw.gauss(0, 0.02)
        inside += measured in fit(planted(0.02, seed), replicates=40).predicted(9.3e6, 2.4e6, UNIQUE)
    assert 32 <= inside <= 40


def test_the_best_size_grows_with_compute() -> None:
    small, _ = best_at(TRUTH, 1e12, 1e12, 1e4, 1e9)
    large, _ = best_at(TRUTH, 1e14, 1e12, 1e4, 1e9)
    assert small * 5 < large < small * 20


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(InkwellError, match="at least 4 different runs"):
        fit(planted()[:3])
    with pytest.raises(InkwellError, match="two numbers of tokens"):
        require([(n, 3e5) for n in (4e5, 9e5, 1.4e6, 2.7e6)], UNIQUE)
    with pytest.raises(InkwellError, match="below 4,000,000 tokens"):
        require([(n, d) for n in (4e5, 9e5) for d in (5e6, 6e6)], UNIQUE)


def test_harm_is_told_only_where_runs_repeat() -> None:
    assert "harm" not in fit(planted(), replicates=10).scales()
    small = 5e5
    again = replace(TRUTH, harm=0.05, harm_repeated=1.2, harm_large=0.5)
    runs = [Run(n, d, small, again.loss(n, d, small)) for n in (4e5, 9e5, 2.7e6) for d in (2e5, 4e5, 2e6, 4e6)]
    found = fit(runs, replicates=10)
    assert found.scales()["harm"].value == pytest.approx(0.05, rel=0.1)
    assert "R counts passes" in in_words(asdict(found.law))


def _study(folder: Path) -> dict[str, Any]:
    """Page and figures of a study in `folder`, whose larger run came out far above what was foretold; what the JSON holds."""
    found = fit(planted(), replicates=60)
    back = Run(9.3e6, 2_400_000, UNIQUE, TRUTH.loss(9.3e6, 2.4e6, UNIQUE) + 1)
    also = {"bits_per_character": 6.5, "seconds": 10.0, "seed": 1}
    rows = [{"size": f"size{n}", **asdict(run), **also} for n, run in enumerate(found.runs)]
    outcome = judged(found, rows, back, {"size": "320x6", **asdict(back), **also})
    outcome |= {"held_out_documents": 400, "unique_tokens": int(UNIQUE)}
    write(folder, outcome, found, back)
    return outcome


def test_the_page_tells_what_was_foretold_and_what_came(tmp_path: Path) -> None:
    outcome = _study(tmp_path)
    assert not outcome["held_back"]["inside"]
    assert outcome["held_back"]["times_the_operations"] == pytest.approx(9.3 * 2.4 / (4.5 * 1.2))
    assert outcome["tokens_per_parameter"] == pytest.approx((900 / 200) ** (1 / TRUTH.alpha), rel=0.5)
    assert "outside the band" in outcome["verdict"]
    assert json.loads((tmp_path / "scaling.json").read_text())["verdict"] == outcome["verdict"]
    written = (tmp_path / "scaling.md").read_text()
    for said in ("4.1 times the operations", "The run that was held back", "320x6", "/ N^0.353", "/ D^0.353", "size14"):
        assert said in written
    assert (tmp_path / "scaling.html").read_text().count("<svg class=") == 3


def test_mlflow_has_a_study_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INKWELL_PIPELINE", raising=False)
    study = Path("study")
    (study / "data" / "clean").mkdir(parents=True)
    (study / "data" / "clean" / "documents.parquet").write_bytes(b"rows")
    (study / "params.yaml").write_text("ingest: {sources: [{name: a, kind: path, location: a}]}\n")
    outcome = _study(study)
    assert not record(study, outcome)  # the tests' environment says INKWELL_TRACKING=off
    monkeypatch.setenv("INKWELL_TRACKING", "on")
    assert record(study, outcome)
    assert not record(study, outcome)
    client = MlflowClient(f"sqlite:///{tmp_path / '.inkwell/mlflow.db'}")
    (run,) = client.search_runs([one.experiment_id for one in client.search_experiments()])
    assert run.info.status == "FINISHED"
    told = {name: run.data.tags[name] for name in ("inkwell.kind", "mlflow.source.name", "mlflow.note.content")}
    assert list(told.values()) == ["scaling", "python -m flows.scaling", outcome["verdict"]]
    assert run.data.metrics["measured"] == pytest.approx(outcome["held_back"]["loss"])
    assert run.data.metrics["inside"] == 0
    assert run.data.metrics["capacity_low"] < run.data.metrics["capacity_high"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"scaling.html", "scaling.json"}
    (corpus,) = (one.dataset for one in run.inputs.dataset_inputs if one.dataset.name == "study/data/clean")
    assert len(corpus.digest) == 32


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sizes", "100x2,64x2"], "widths are 32 or multiples of 64"),
        (["--sizes", "64x2"], "at least two --sizes"),
        (["--budgets", "many"], "write numbers of tokens"),
        (["--held-back", "64x2"], "write it as WIDTHxLAYERS-TOKENS"),
        (["--held-back", "64x2-300000"], "is among the runs that are fitted"),
        (["--jobs", "0"], "--jobs must be at least 1"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_study_from_text_to_page(tmp_path: Path) -> None:
    (tmp_path / "poems.json").write_text(json.dumps(poems(400), ensure_ascii=False), encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(CORPUS.format(location=tmp_path / "poems.json"), encoding="utf-8")
    command = [sys.executable, "-m", "flows.scaling", "--corpus", str(tmp_path / "tiny.yaml")]
    command += ["--workspace", str(tmp_path / "study"), "--held-out", "20", "--jobs", "2"]
    command += ["--sizes", "32x1,64x1", "--budgets", "2000,4000", "--held-back", "64x2-8000"]
    command += ["--set", "tokenizer.vocabulary=420", "--set", "pretrain.block=64"]

    def run() -> str:
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "[5/5]" in run()
    found = json.loads((tmp_path / "study/scaling.json").read_text())
    assert len(found["runs"]) == 4
    assert found["held_back"]["size"] == "64x2"
    assert {"low", "high", "value"} == set(found["held_back"]["predicted"])
    page = (tmp_path / "study/scaling.html").read_text()
    assert page.count("<svg class=") == 3
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert run().count("kept from an earlier run") == 5
