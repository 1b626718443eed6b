"""The align step, through trl: what it learns, writes, and does when it is killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from components.align.__main__ import STEP
from components.align.optimization import last_checkpoint
from components.configuration import Instruct
from components.corpus.conversations import read_preferences, write_conversations
from components.instruct.from_corpus import conversations_of
from components.step import content_hash, main
from components.vocabulary.spelling import RECORD
from tests.tiny_corpus import clean_rows

REPOSITORY = Path(__file__).parents[2]
PARAMETERS = """
ingest: {sources: [{name: t, kind: path, location: x}]}
tracking: {enabled: false}
machine: {threads: 1, precision: fp32}
sampling: {maximum_tokens: 8}
align: {pairs: 32, validation_pairs: 24, batch: 8, micro_batch: 8, learning_rate: 1.0e-3, checkpoint_steps: 1}
"""


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instruct")
    made = [one for row in clean_rows() for one in conversations_of(row, Instruct(who_wrote=0), "zh", "verse", None, 1)]
    write_conversations(folder / "conversations.parquet", made)
    return folder


def arguments(instruct: Path, model: Path, *sets: str) -> list[str]:
    Path("params.yaml").write_text(PARAMETERS, encoding="utf-8")
    return ["--instruct", str(instruct), "--sft", str(model), *(part for text in sets for part in ("--set", text))]


def curve() -> list[dict[str, str]]:
    with Path("data/curves/align.csv").open(encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def outputs() -> list[str]:
    paths = ["models/aligned", "data/preferences", "data/curves/align.csv"]
    return [content_hash(Path(path)) for path in paths]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_real_texts_become_likelier_than_damaged_ones_and_keep_their_likelihood(
    workspace: Path, instruct: Path, tiny_model: Path
) -> None:
    assert main(STEP, arguments(instruct, tiny_model, "align.rejected=corrupted", "align.pairs=64")) == 0
    metrics = json.loads(Path("metrics/align.json").read_text())
    assert metrics["pairs"] == metrics["pairs_corrupted"] == 64
    assert metrics["steps"] == len(curve()) == 8
    assert metrics["validation_accuracy"] > 0.6
    assert metrics["validation_margin"] > 0
    assert metrics["validation_answer_bits_per_char"] < metrics["validation_answer_bits_per_char_before"]
    assert [row["step"] for row in curve()] == [str(step) for step in range(1, 9)]
    before, after = load_file(tiny_model / "model.safetensors"), load_file("models/aligned/model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] != after[name]).any() for name in before if "proj" in name)
    card = Path("models/aligned/README.md").read_text(encoding="utf-8")
    assert "No person rated anything" in card
    assert "A small language model, trained from nothing\nby Inkwell" in card
    assert not list(Path(".inkwell/work/align").iterdir())
    pairs = read_preferences(Path("data/preferences/preferences.parquet"))
    validation = {row["id"] for row in clean_rows() if row["split"] == "validation"}
    assert not validation & {pair.document_id for pair in pairs}


def test_killed_in_the_middle_it_ends_as_if_nothing_had_happened(
    workspace: Path, instruct: Path, tiny_model: Path
) -> None:
    command = [sys.executable, "-m", "components.align", *arguments(instruct, tiny_model)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
    # each in a process of its own: threads and routes of products that other tests have set would show in the last bits
    subprocess.run(command, env=environment, check=True)
    whole, whole_curve = outputs(), curve()
    for path in ("models", "data"):
        Path(path).rename(f"first-{path}")
    process = subprocess.Popen(command, env=environment)
    deadline = time.monotonic() + 300
    while not list(Path(".inkwell").glob("work/align/*/checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not Path("models/aligned").exists()
    subprocess.run(command, env=environment, check=True)
    assert json.loads(Path("metrics/align.json").read_text())["resumed_at_step"] >= 1
    assert curve() == whole_curve
    assert outputs() == whole


def test_a_checkpoint_half_written_is_passed_over(tmp_path: Path) -> None:
    for step, state in ((9, "{}"), (10, '{"global_'), (11, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-9"]
    assert last_checkpoint(tmp_path / "nothing") is None


def test_pairs_longer_than_the_block_are_left_out_counted_and_told_when_none_is_left(
    workspace: Path, instruct: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(STEP, arguments(instruct, tiny_model, "align.block=16", "machine.device=auto")) == 2
    told = capsys.readouterr()
    assert "align.block = 16 tokens leaves 0 of 32 pairs" in told.err
    assert "align trains on the processor; machine.device = auto is for pretrain and sft" in told.out


def test_the_card_says_what_the_model_was_trained_further_from(
    workspace: Path, instruct: Path, tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, "theirs")
    record = {"model": "their-7b", "sha256": "c" * 64, "vocabulary": 500, "added_tokens": 0, "license": None}
    (Path("theirs") / RECORD).write_text(json.dumps(record), encoding="utf-8")
    few = ("align.rejected=corrupted", "align.pairs=8", "align.validation_pairs=0")
    assert main(STEP, arguments(instruct, Path("theirs"), *few)) == 0
    card = Path("models/aligned/README.md").read_text(encoding="utf-8")
    assert f"trained further from their-7b (sha256 `{'c' * 64}`)\nby Inkwell" in card
    assert "from nothing" not in card
    assert json.loads((Path("models/aligned") / RECORD).read_text(encoding="utf-8")) == record
