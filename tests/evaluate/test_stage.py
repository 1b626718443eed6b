"""The whole step through its command and real lighteval: scores, agreement with two other scorers, kill and rerun."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from components.corpus.documents import clean_schema, read_table, write_documents
from components.evaluate import lighteval_run
from components.evaluate.__main__ import STEP
from components.step import main
from tests.tiny_corpus import clean_rows

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
    "evaluate.documents": 12,
    "evaluate.titles": 6,
    "evaluate.other_titles": 3,
    "sampling.maximum_tokens": 16,
    "tracking.enabled": "false",
}


def prepare(folder: Path, clean: Path, models: dict[str, Path]) -> list[str]:
    """Lay out a workspace and return the arguments of the command that runs in it."""
    (folder / "data").mkdir(parents=True)
    (folder / "models").mkdir()
    shutil.copytree(clean, folder / "data" / "clean")
    for name, model in models.items():
        shutil.copytree(model, folder / "models" / name)
    (folder / "params.yaml").write_text(
        "language: zh\ningest: {sources: [{name: tiny, kind: path, location: unused}]}\n", encoding="utf-8"
    )
    return [argument for key, value in SETTINGS.items() for argument in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tokenizer_folder: Path) -> dict[str, Path]:
    """Three models that differ."""
    import torch

    from components.model.folders import load_model, save_model

    folder = tmp_path_factory.mktemp("three")
    made = {"base": tiny_model}
    for number, name in enumerate(("sft", "aligned"), start=1):
        model = load_model(tiny_model)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
        save_model(model, tokenizer_folder, folder / name, card="# Tiny\n")
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, clean_folder: Path, models: dict[str, Path]) -> Path:
    """A workspace in which the step has run."""
    folder = tmp_path_factory.mktemp("finished") / "workspace"
    arguments = prepare(folder, clean_folder, models)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(STEP, arguments) == 0
    return folder


def metrics_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics" / "evaluate.json").read_text(encoding="utf-8"))
    return found


def test_every_model_gets_its_scores(finished: Path) -> None:
    metrics = metrics_of(finished)
    for name in ("base", "sft", "aligned"):
        for score in ("bits_per_char", "next_line", "ended", "verbatim_share", "distinct_lines"):
            assert f"{name}.{score}" in metrics
    for name in ("sft", "aligned"):
        for score in ("five_char_lines", "seven_char_lines", "line_count"):
            assert 0 <= metrics[f"{name}.{score}"] <= 1
    assert "base.five_char_lines" not in metrics  # an untuned model cannot be asked
    assert metrics["base.bits_per_char"] != metrics["sft.bits_per_char"] != metrics["aligned.bits_per_char"]
    assert metrics["documents"] == 12
    assert metrics["titles"] == 6


def test_bits_per_character_agree_with_the_training_figure(finished: Path, models: dict[str, Path]) -> None:
    import numpy as np

    from components.evaluate.questions import bits
    from components.evaluate.stage import _read
    from components.model.folders import BEGIN_ID, END_ID, load_model, load_tokenizer
    from components.model.scoring import bits_per_character, document_bits

    held_out, _ = _read(finished / "data" / "clean" / "documents.parquet")
    asked = random.Random("20260101:evaluate").sample(held_out, 12)
    contents = [row["text"] for row in bits(asked, 10**9)]
    for name, folder in models.items():
        tokenizer = load_tokenizer(folder)
        tokens = [
            np.array([BEGIN_ID, *tokenizer(text, add_special_tokens=False)["input_ids"], END_ID]) for text in contents
        ]
        expected = bits_per_character(document_bits(load_model(folder), tokens), contents)
        assert metrics_of(finished)[f"{name}.bits_per_char"] == pytest.approx(expected, abs=1e-3)


def test_likelihoods_agree_with_lightevals_own_back_end(
    tmp_path: Path, clean_folder: Path, models: dict[str, Path]
) -> None:
    from components.configuration import Sampling
    from components.evaluate.lighteval_run import quiet_lighteval
    from components.evaluate.questions import bits, next_line
    from components.evaluate.stage import _read
    from components.model.folders import load_model

    held_out, _ = _read(clean_folder / "documents.parquet")
    with quiet_lighteval(tmp_path):
        from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
        from lighteval.tasks.requests import Doc

        from components.evaluate.lighteval_model import FolderModel

        stock = TransformersModel.from_model(
            load_model(models["sft"]),
            TransformersModelConfig(
                model_name=str(models["sft"]),
                device="cpu",
                batch_size=16,
                override_chat_template=False,
                cache_dir=str(tmp_path / "stock"),
            ),
        )
        ours = FolderModel("sft", models["sft"], True, Sampling(), 1, tmp_path / "ours")
        rows = next_line(held_out[:10], held_out, 4, random.Random(1))
        encode = ours.tokenizer.encode
        choices = [
            Doc(
                query=row["context"], choices=row["choices"], gold_index=row["gold"], task_name="next_line|0", id=str(i)
            )
            for i, row in enumerate(rows)
            # the stock back end encodes the two apart, the line end with the choice: comparable where no token spans that
            if all(
                encode(row["context"][:-1]) + encode("\n" + choice, add_special_tokens=False)
                == encode(row["context"] + choice)
                for choice in row["choices"]
            )
        ]
        assert len(choices) >= 5
        for mine, theirs in zip(ours.loglikelihood(choices), stock._loglikelihood_tokens(choices), strict=True):
            # what all choices share is scored by one and not by the other: only differences choose
            differences = [value - theirs.logprobs[0] for value in theirs.logprobs]
            assert [value - mine.logprobs[0] for value in mine.logprobs] == pytest.approx(differences, abs=2e-3)

        whole = [row["text"] for row in bits(held_out[:10], 10**9)]
        asked = [
            Doc("", [text], 0, task_name="bits|0", id=str(i), specific={"ended": True}) for i, text in enumerate(whole)
        ]
        marked = [Doc("", [text + "</s>"], 0, task_name="bits|0", id=str(i)) for i, text in enumerate(whole)]
        for mine, theirs in zip(ours.loglikelihood_rolling(asked), stock._loglikelihood_tokens(marked), strict=True):
            assert mine.logprobs == pytest.approx(theirs.logprobs, rel=1e-4)


def test_results_hold_intervals_and_texts_are_kept(finished: Path) -> None:
    import pyarrow.parquet as pq

    results = json.loads((finished / "data" / "evaluation" / "results.json").read_text(encoding="utf-8"))
    for score in ("sft.five_char_lines", "base.next_line", "aligned.bits_per_char"):
        found = results["scores"][score]
        assert found["low"] <= found["value"] <= found["high"]
        assert found["n"] > 0
    rows = pq.read_table(finished / "data" / "evaluation" / "generations.parquet").to_pylist()
    five = [row for row in rows if row["model"] == "sft" and row["task"] == "five_char_lines"]
    assert len(five) == 6
    assert sum(row["ok"] for row in five) / 6 == pytest.approx(results["scores"]["sft.five_char_lines"]["value"])
    assert str(finished) not in json.dumps(results)


def test_a_killed_run_asks_only_the_unfinished_models_and_ends_with_the_same_bytes(
    finished: Path, tmp_path: Path, clean_folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow.parquet as pq

    workspace = tmp_path / "workspace"
    arguments = prepare(workspace, clean_folder, models)
    # another hash seed: lighteval orders its tasks by it, and nothing of ours may depend on that
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONHASHSEED": "77"}
    process = subprocess.Popen(
        [sys.executable, "-m", "components.evaluate", *arguments], cwd=workspace, env=environment
    )
    deadline = time.monotonic() + 300
    while not (done := list(workspace.glob(".inkwell/work/evaluate/*/[a-z]*-*.json"))):
        assert process.poll() is None, "the step ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workspace / "data" / "evaluation").exists()

    # What was kept is what an undisturbed run writes; a mark put into it shows that it is used and not made again.
    kept = json.loads(done[0].read_text(encoding="utf-8"))
    prompt, kept[1][0]["prompt"] = kept[1][0]["prompt"], "marked by the test"
    done[0].write_text(json.dumps(kept), encoding="utf-8")
    monkeypatch.chdir(workspace)
    assert main(STEP, arguments) == 0
    before, after = finished / "data" / "evaluation", workspace / "data" / "evaluation"
    for name in ("results.json", "next_line.parquet"):
        assert (after / name).read_bytes() == (before / name).read_bytes(), name
    rows = pq.read_table(after / "generations.parquet").to_pylist()
    (marked,) = [row for row in rows if row["prompt"] == "marked by the test"]
    assert marked["model"] == done[0].name.split("-")[0]
    marked["prompt"] = prompt
    assert rows == pq.read_table(before / "generations.parquet").to_pylist()


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys, time\n"
        "from pathlib import Path\n"
        "from components.evaluate.side_by_side import side_by_side\n"
        "def work(folder):\n"
        "    Path(folder, str(os.getpid())).touch()\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    side_by_side(work, [(sys.argv[1],)], most=1)\n"
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    (tmp_path / "seen").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "seen")],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    while not (seen := list((tmp_path / "seen").iterdir())):
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    worker = Path("/proc") / seen[0].name / "stat"
    deadline = time.monotonic() + 30
    while worker.exists() and worker.read_text(encoding="utf-8").split()[2] != "Z":
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.1)


def test_lighteval_leaves_the_process_as_it_found_it(tmp_path: Path) -> None:
    import torch

    random.seed(5)
    expected = random.Random(5).random()
    with lighteval_run.quiet_lighteval(tmp_path):
        random.seed(1234)
    assert torch.is_grad_enabled()
    assert random.random() == expected


def test_prose_in_russian_without_titles_is_judged_too(
    tmp_path: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.evaluate.test_questions import prose

    rows = clean_rows(30)
    for row, document in zip(rows, prose(30), strict=True):
        row |= {"text": document.text, "content": document.text, "title": None, "author": None}
    write_documents(tmp_path / "prose" / "documents.parquet", rows, clean_schema())
    arguments = prepare(tmp_path / "workspace", tmp_path / "prose", models)
    monkeypatch.chdir(tmp_path / "workspace")
    assert main(STEP, [*arguments, "--set", "language=ru"]) == 0
    metrics = metrics_of(tmp_path / "workspace")
    assert "sft.five_char_lines" not in metrics
    assert 0 <= metrics["sft.ended"] <= 1
    assert metrics["documents"] == 3


def test_no_held_out_document_is_told_in_one_sentence(
    tmp_path: Path, clean_folder: Path, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    rows = read_table(clean_folder / "documents.parquet", clean_schema()).to_pylist()
    kept = [row for row in rows if row["split"] == "train"]
    write_documents(tmp_path / "clean" / "documents.parquet", kept, clean_schema())
    arguments = prepare(tmp_path / "workspace", tmp_path / "clean", models)
    monkeypatch.chdir(tmp_path / "workspace")
    assert main(STEP, arguments) == 2
    assert "clean.validation_fraction" in capsys.readouterr().err
