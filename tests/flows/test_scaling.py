"""The scaling study: its law on planted runs, and the whole of it with models that train for seconds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import InkwellError
from components.scaling import PUBLISHED, Run
from flows.scaling.__main__ import main
from flows.scaling.law import best_at, fit
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
