"""Which unfinished run a step goes on with, and what it says about the others."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from components.configuration import Configuration, parse
from components.errors import InkwellError
from components.pretrain.__main__ import STEP
from components.step import Context
from components.tracking import Recorder
from components.training import run
from components.training.run import Run, _code, code_hash, open_run

CODE = _code


@pytest.fixture(autouse=True)
def _in_a_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # the code is part of a run's identity, and somebody may be at work on it
    monkeypatch.setattr("components.training.run._code", lambda step: {"training/module.py": "as it was"})
    for name in ("tokens", "tokenizer"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)


def _configuration(**pretrain: Any) -> Configuration:
    sources = [{"name": "tiny", "kind": "path", "location": "poems.json"}]
    return parse({"seed": 4, "ingest": {"sources": sources}, "pretrain": {"steps": 100, **pretrain}})


def _open(seed: int = 4, **pretrain: Any) -> Run:
    configuration = _configuration(**pretrain).model_copy(update={"seed": seed})
    inputs = {"tokens": Path("tokens"), "tokenizer": Path("tokenizer")}
    context = Context(STEP, configuration, inputs, {}, Recorder())
    return open_run(context, configuration.pretrain)


def _unfinished(**pretrain: Any) -> Path:
    """The folder of a run that left a checkpoint and whose process is gone."""
    run = _open(**pretrain)
    run.checkpoints.mkdir(parents=True)
    (run.checkpoints / "rows-000000000016-step-00000001.ckpt").touch()
    assert run._lock is not None
    run._lock.close()
    return run.work


def test_the_same_run_is_found_again(capsys: pytest.CaptureFixture[str]) -> None:
    work = _unfinished()
    again = _open()
    assert again.resumes
    assert again.work == work
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"micro_batch": 8, "accumulation": 2}, "pretrain.micro_batch 16 -> 8"),
        ({"micro_batch": 8}, "pretrain.micro_batch 16 -> 8"),
        ({"micro_batch": 8, "steps": 200}, "pretrain.steps 100 -> 200"),
        ({"checkpoints": {"minutes": 9.0}}, "pretrain.checkpoints.minutes 2.0 -> 9.0"),
        ({"anomalies": {"spike": "skip"}}, 'pretrain.anomalies.spike "record" -> "skip"'),
        ({"validation_every": 7}, "pretrain.validation_every 100 -> 7"),
    ],
)
def test_what_only_cuts_up_the_work_may_change_and_is_told(
    capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: str
) -> None:
    work = _unfinished()
    run = _open(**change)
    assert run.work == work
    assert run.resumes
    assert told in capsys.readouterr().out
    assert told in (run.kept / "run.log").read_text()


def test_the_course_of_a_run_stays_the_one_it_began_with() -> None:
    work = _unfinished()
    run = _open(micro_batch=8)  # it keeps its 1,600 rows
    assert run._lock is not None
    run._lock.close()
    assert _open(micro_batch=8, steps=200).work == work


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"learning_rate": 0.003}, "pretrain.learning_rate 0.005 -> 0.003"),
        ({"steps": 50}, "pretrain.steps 100 -> 50"),
        ({"optimizer": "adamw"}, 'pretrain.optimizer "muon" -> "adamw"'),
        ({"hidden_size": 512}, "pretrain.hidden_size 256 -> 512"),
        ({"ema_decay": 0.9}, "pretrain.ema_decay 0.0 -> 0.9"),
        ({"checkpoints": {"keep_best": True}}, "pretrain.checkpoints.keep_best null -> true"),
    ],
)
def test_another_outcome_is_another_run(capsys: pytest.CaptureFixture[str], change: dict[str, Any], told: str) -> None:
    work = _unfinished()
    run = _open(**change)
    assert run.work != work
    assert not run.resumes
    out = capsys.readouterr().out
    assert told in out
    assert "a new run starts beside it" in out
    assert work.exists()
    refusing = {**change, "checkpoints": {**change.get("checkpoints", {}), "other": "refuse"}}
    with pytest.raises(InkwellError) as refused:
        _open(**refusing)
    assert told in str(refused.value)
    assert str(work) in str(refused.value)


@pytest.mark.parametrize("name", ["validation_every", "validation_documents"])
def test_what_chooses_the_best_weights_is_part_of_a_run_that_keeps_them(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    keeping: dict[str, Any] = {"checkpoints": {"keep_best": True}}
    work = _unfinished(**keeping)
    assert _open(**keeping, **{name: 7}).work != work
    assert f"pretrain.{name}" in capsys.readouterr().out


def test_other_data_and_another_seed_are_other_runs(capsys: pytest.CaptureFixture[str]) -> None:
    work = _unfinished()
    assert _open(seed=5).work != work
    assert "seed 4 -> 5" in capsys.readouterr().out
    Path("tokens/content").write_text("more")
    assert _open().work != work
    assert "the data of tokens" in capsys.readouterr().out


def test_refuse_lets_the_same_run_go_on_beside_others() -> None:
    _unfinished(learning_rate=0.001)
    mine = _unfinished()
    assert _open(checkpoints={"other": "refuse"}).work == mine


def test_a_run_is_worked_on_by_one_process() -> None:
    run = _open()
    with pytest.raises(InkwellError, match="is at work on this run"):
        _open()
    assert run._lock is not None


def test_comments_and_docstrings_are_no_code() -> None:
    plain = "def f(x):\n    return x + 1\n"
    assert code_hash(plain) == code_hash('"""Doc."""\n\ndef f(x):  # comment\n    """More."""\n    return (x + 1)\n')
    assert code_hash(plain) != code_hash(plain.replace("1", "2"))


def test_all_modules_that_decide_about_weights_are_part_of_the_identity() -> None:
    known = set(CODE("pretrain"))
    assert {"training/module.py", "training/muon.py", "pretrain/data.py", "corpus/packed.py"} <= known
    assert "model/architectures.py" in known
    assert not [name for name in known if name.startswith("sft/")]
    assert {"sft/data.py", "sft/lora.py"} <= set(CODE("sft"))


# They show, measure, plan, start and keep; a run goes on when they are mended.
WITHOUT_WEIGHT = {
    "bare_step",
    "clock",
    "dry_run",
    "loop",
    "pinned",
    "rehearsal",
    "run",
    "run_log",
    "tracing",
    "trial",
    "watch",
}


def test_of_every_module_of_training_it_is_said_whether_it_decides_about_weights() -> None:
    folder = Path(run.__file__).parent
    names = {file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.py")}
    names = {name for name in names if not name.endswith("__init__")}
    deciding = {name.removeprefix("training/") for name in run._CODE if name.startswith("training/")}
    assert deciding | WITHOUT_WEIGHT == names
    assert not deciding & WITHOUT_WEIGHT


def test_a_module_that_was_moved_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_CODE", (*run._CODE, "packed"))
    with pytest.raises(AssertionError, match=r"packed\.py"):
        CODE("pretrain")


def test_a_disk_without_locks_is_told_and_worked_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert _open().work.exists()
    assert "cannot be locked (No locks available)" in capsys.readouterr().out


def test_other_code_is_another_run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    work = _unfinished()
    monkeypatch.setattr("components.training.run._code", lambda step: {"training/module.py": "other"})
    assert _open().work != work
    assert "training/module.py" in capsys.readouterr().out
