"""The benchmarks of training in miniature: what they measure with has to be right."""

from __future__ import annotations

import importlib
import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.parts import Parts, digest
from benchmarks.peers.inkwell import Inkwell, Start
from benchmarks.pictures import race_picture, scaling_picture
from benchmarks.pretrain import main
from components.corpus.packed import TokenShards
from components.errors import InkwellError
from tests.benchmarks.last_line import figures


def test_parts_are_measured_once_for_each_setting(tmp_path: Path) -> None:
    counted: list[int] = []

    def work() -> dict[str, Any]:
        counted.append(1)
        return {"value": len(counted)}

    first = Parts(tmp_path, {"minutes": 10})
    assert [first.done("a", work), first.done("a", work)] == [{"value": 1}, {"value": 1}]
    assert Parts(tmp_path, {"minutes": 10}).done("a", work) == {"value": 1}, "another process goes on"
    assert Parts(tmp_path, {"minutes": 5}).done("a", work) == {"value": 2}
    assert Parts(tmp_path, {"minutes": 10}, fresh=True).done("a", work) == {"value": 3}

    def fails() -> dict[str, Any]:
        raise InkwellError("killed in the middle")

    with pytest.raises(InkwellError):
        first.done("b", fails)
    assert not first.has("b")
    assert Parts(tmp_path, {"minutes": 10}).names("*") == ["a"]


def test_a_part_of_another_state_is_told_and_measured_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = {"minutes": 10}
    Parts(tmp_path, setting, "a").done("race-0.1", lambda: {"value": 1})
    assert "measured" not in capsys.readouterr().out
    changed = Parts(tmp_path, setting, "b")
    assert changed.done("race-0.1", lambda: {"value": 2}) == {"value": 2}
    assert "race-0.1: measured before with other code or parameters: measured anew" in capsys.readouterr().out
    changed.done("other", lambda: {"value": 3})
    assert "other" not in capsys.readouterr().out
    assert Parts(tmp_path, setting, "a").done("race-0.1", lambda: {"value": 4}) == {"value": 1}
    assert changed.names("race*") == ["race-0.1"]


def test_a_digest_changes_with_code_and_parameters(tmp_path: Path) -> None:
    (tmp_path / "package" / "__pycache__").mkdir(parents=True)
    (tmp_path / "package" / "a.py").write_text("a = 1")
    (tmp_path / "one.py").write_text("b = 1")
    named = ("package", "one.py")
    before = digest(named, "parameters", root=tmp_path)
    (tmp_path / "package" / "__pycache__" / "a.pyc").write_text("compiled")
    assert digest(named, "parameters", root=tmp_path) == before
    assert digest(named, "others", root=tmp_path) != before
    (tmp_path / "package" / "law.yaml").write_text("alpha: 1")
    added = digest(named, "parameters", root=tmp_path)
    (tmp_path / "one.py").write_text("b = 2")
    assert len({before, added, digest(named, "parameters", root=tmp_path)}) == 3


def test_parts_of_inkwell_know_its_parameters_and_what_was_tried(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, ...]] = []

    def measured(self: object, module: str, *arguments: str) -> dict[str, float]:
        asked.append((module, *arguments))
        return {"loop_overhead": float(len(asked))}

    monkeypatch.setattr("benchmarks.pretrain.Benchmark._process", measured)
    brief = ("--only", "overhead", "--rounds", "2")
    assert figures(capsys, workspace, *brief)["loop_overhead"] == 1
    assert figures(capsys, workspace, *brief)["loop_overhead"] == 1, "measured before"
    for changed in (("--only", "overhead"), (*brief, "--steps", "4"), (*brief, "--size", "tiny")):
        figures(capsys, workspace, *changed)
    figures(capsys, workspace, *brief, "--set", "pretrain.gradient_clip=0.5")
    written = (workspace / "params.yaml").read_text(encoding="utf-8")
    (workspace / "params.yaml").write_text(written + "# a remark\n", encoding="utf-8")
    assert figures(capsys, workspace, *brief)["loop_overhead"] == 6, "each was a measurement of its own"


def test_operations_are_counted_as_the_paper_counts_them() -> None:
    from components.machine.ceiling import operations_per_token
    from components.model.architectures import new_model

    model = new_model("qwen3", vocab_size=512, hidden_size=64, num_hidden_layers=3, intermediate_size=96,
                        num_attention_heads=2, num_key_value_heads=1, head_dim=32, max_position_embeddings=128,
                        tie_word_embeddings=False)  # fmt: skip
    matrices = 3 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96)
    expected = 6 * (matrices + 512 * 64) + 12 * 3 * 128 * 64
    assert operations_per_token(model, 128) == expected


def test_a_dial_in_the_file_does_not_change_the_shape_that_is_measured(workspace: Path) -> None:
    from benchmarks.engine import Bare, opened
    from components.configuration import load
    from components.training.bare_step import bare_step

    asked = load(workspace / "params.yaml", ["pretrain.dial.minutes=1", "pretrain.dial.parameters=2000000"])
    with opened(asked.pretrain, asked.machine, workspace) as training:
        assert (training.model.config.hidden_size, training.loader.micro_batch) == (64, 4)
        loop = Bare.of(training)
        seconds, read = loop.timed(2)
        assert seconds > 0
        assert 2 <= read <= 2 * 4 * 64
        batch = next(loop.batches)
        losses = [bare_step(training, loop.optimizers, batch) for _ in range(8)]
    assert losses[-1] < losses[0] < 2 * math.log(512), "nats a token, and every step is one"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (("64x1-1024", "64x1-2048", "128x1-1024"), "3 of these 3 runs see their text no more than once"),
        (("64x1-1024", "64x1-1024", "64x1-2048", "64x1-90000000"), "2 of these 4 runs see their text"),
        (("64x1",), "write it as 128x4-500000"),
    ],
)
def test_a_grid_that_no_law_can_be_fitted_to_is_told_before_it_is_trained(
    cells: tuple[str, ...],
    words: str,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks import scaling_law

    monkeypatch.setattr(scaling_law.SmallRuns, "train", lambda *_, **__: pytest.fail("it was trained"))
    assert scaling_law.main(["--workspace", str(workspace), "--cells", *cells]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.timeout(1500)
def test_compute_scaling_and_overhead_measure_real_steps(capsys: pytest.CaptureFixture[str], workspace: Path) -> None:
    small = ("--size", "tiny", "--rounds", "2", "--steps", "4")
    found = figures(capsys, workspace, "--only", "compute,scaling,overhead", *small)
    assert 0 < found["gemm_fraction_tiny_min"] <= found["gemm_fraction_tiny"] <= found["gemm_fraction_tiny_max"] < 1.5
    # by hand: the tiny shape of benchmarks.sizes with 512 tokens, rows of 256; three times a forward pass of two operations
    multiplied = 2 * (4 * 128 * 128 + 3 * 128 * 256) + 512 * 128
    operations = 6 * multiplied + 12 * 2 * 256 * 128
    assert found["operations_per_second_tiny"] == pytest.approx(found["tokens_per_second_tiny"] * operations, rel=1e-6)
    # of two rounds the faster one had the higher ceiling, or the lower
    rates, ceilings = (
        [found[f"{name}_tiny_{end}"] for end in ("min", "max")] for name in ("tokens_per_second", "gemm_ceiling")
    )
    possible = [
        sorted(operations * rate / ceiling for rate, ceiling in zip(rates, order, strict=True))
        for order in (ceilings, ceilings[::-1])
    ]
    ends = [found["gemm_fraction_tiny_min"], found["gemm_fraction_tiny_max"]]
    assert any(ends == pytest.approx(pair, rel=1e-3, abs=2e-6) for pair in possible)
    assert found["gemm_fraction_tiny"] == pytest.approx(sum(ends) / 2, abs=2e-6)
    assert found["gemm_fraction_causal_tiny"] < found["gemm_fraction_tiny"]
    assert found["speedup_vs_eager"] == found["speedup_vs_eager_tiny"] > 0
    assert (
        found["scaling_parameters_tiny"] == 2 * 512 * 128 + 2 * (4 * 128 * 128 + 3 * 128 * 256 + 2 * 128 + 2 * 64) + 128
    )
    assert found["scaling_peak_gib_tiny"] > 0.1
    assert found["checkpoint_seconds"] >= 0
    assert found["loop_overhead_min"] <= found["loop_overhead"] <= found["loop_overhead_max"]
    again = figures(capsys, workspace, "--only", "compute,scaling,overhead", *small)
    assert again == found, "finished parts are not measured again"


@pytest.mark.timeout(1500)
def test_sixteen_minutes_in_a_moment(
    capsys: pytest.CaptureFixture[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.race.lengths.OVERRUN", 1e9)  # starting takes longer than the moment
    found = figures(capsys, workspace, "--only", "sixteen", "--plan", "steps", "--sixteen-minutes", "0.1")
    shards = TokenShards(workspace / "data" / "tokens", "train")
    assert 0 < found["bpc_16min"] < 20
    assert found["chars_per_second_ratio_to_slides"] == pytest.approx(found["chars_per_second"] / 39_500, abs=1e-6)
    with (next((workspace / "results").glob("*/sixteen-0.1.json"))).open() as handle:
        run = json.load(handle)
    assert 2 <= run["predicted"] <= run["steps"] * 4 * 64
    learnt = run["predicted"] * shards.characters / (shards.tokens - len(shards))
    assert found["chars_per_second"] == pytest.approx(learnt / found["seconds_16min"], rel=1e-3)
    assert found["chars_per_second_training"] > found["chars_per_second"], "starting takes time"


def test_sixteen_minutes_that_took_longer_are_repeated(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned: list[float] = []

    def train(self: Inkwell, folder: Path, seconds: float, *_: Any, **__: Any) -> SimpleNamespace:
        planned.append(seconds)
        run = {"bits": 7.0, "trained": seconds + 60.0, "predicted": 1000}
        run["metrics"] = {"tokens_per_second": 1.0, "parameters": 1}
        return SimpleNamespace(bits=7.0, trained=run["trained"], figures=lambda: run)

    filled: list[int] = []
    monkeypatch.setattr(Inkwell, "start", lambda *_, **__: Start(5.0, 0.1))
    monkeypatch.setattr(Inkwell, "fill", lambda *_, **__: filled.append(1))
    monkeypatch.setattr(Inkwell, "train", train)
    found = figures(capsys, workspace, "--only", "sixteen")
    assert planned == [pytest.approx(950.4), pytest.approx(890.4)]
    assert found["seconds_16min"] == pytest.approx(950.4)
    assert len(filled) == 2, "each is compiled before it is on the clock"


@pytest.mark.parametrize("module", ["compute_rate", "loop_overhead"])
def test_a_measurement_by_hand_says_what_is_missing(
    module: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = importlib.import_module(f"benchmarks.{module}").main
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setattr(sys, "argv", [module])
    assert command() == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith(f"{module}: params.yaml does not exist")
    shutil.copyfile(workspace / "params.yaml", empty / "params.yaml")
    assert command() == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert told.err.splitlines()[-1].endswith("meta.json does not exist: run the tokenize step first.")
    assert [path.name for path in empty.iterdir()] == ["params.yaml"], "no working folder is left behind"


def test_pictures_are_the_same_bytes_for_the_same_figures(tmp_path: Path) -> None:
    curves = {"Inkwell, warm cache": [(10.0, 9.0), (60.0, 7.0)], "litgpt, cold cache": [(30.0, 11.0), (60.0, 9.5)]}
    sizes = [{"parameters": 10**6 * n, "tokens_per_second": 10_000 / n, "peak_gib": 0.5 + n / 10} for n in (1, 10, 100)]
    for name in ("a", "b"):
        race_picture(curves, tmp_path / f"race-{name}.svg")
        scaling_picture(sizes, tmp_path / f"scaling-{name}.svg")
    for kind in ("race", "scaling"):
        first, second = ((tmp_path / f"{kind}-{name}.svg").read_bytes() for name in ("a", "b"))
        assert first == second
        assert b"#d9622b" in first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--workspace", "nowhere"), "run `make run` first"),
        (("--minutes", "0"), "--minutes must be above 0"),
        (("--seeds", "2"), "take an odd number"),
        (
            ("--only", "race", "--set", "pretrain.architecture=gpt2"),
            "pretrain.architecture = gpt2: the others of the race",
        ),
        (("--only", "race", "--set", "pretrain.architecture=mamba2"), "pretrain.architecture = mamba2: the others"),
        (("--only", "race", "--set", "pretrain.initial=weights"), "pretrain.initial = weights: the others of the race"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_sentence(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str], workspace: Path
) -> None:
    assert main(["--workspace", str(workspace), "--results", str(workspace / "results"), *arguments]) == 2
    assert words in capsys.readouterr().err
