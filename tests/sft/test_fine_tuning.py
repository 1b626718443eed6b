"""Fine-tuning teaches answers, by all weights or by adapters, and survives a kill."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from components.model.folders import load_model
from components.step import content_hash
from tests.processes import finish, kill_between_checkpoints, start

PARAMS = """
ingest: {sources: [{name: tiny, kind: path, location: poems.json}]}
machine: {compile: "off", threads: 1}
sft: {steps: 30, block: 128, micro_batch: 4, warmup_steps: 2, validation_every: 10, validation_conversations: 10,
      checkpoints: {minutes: 0.0005}, lora_rank: 4}
"""


def _files(conversations: Path, base: Path) -> list[str]:
    return ["--conversations", str(conversations), "--base", str(base)]


def test_killed_it_ends_with_the_same_bits(tmp_path: Path, conversations: Path, tiny_model: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("sft", whole, PARAMS, *_files(conversations, tiny_model)))
    kill_between_checkpoints(
        start("sft", killed, PARAMS, *_files(conversations, tiny_model)), killed / ".inkwell/work/sft"
    )
    finish(start("sft", killed, PARAMS, *_files(conversations, tiny_model)))
    assert json.loads((killed / "metrics/sft.json").read_text())["resumed_at_step"] > 0
    assert (whole / "data/curves/sft.csv").read_text() == (killed / "data/curves/sft.csv").read_text()
    assert content_hash(whole / "models/sft") == content_hash(killed / "models/sft")
    rows = (whole / "data/curves/sft.csv").read_text().splitlines()
    assert len(rows) == 31
    first, last = (float(rows[i].split(",")[3]) for i in (1, -1))
    assert last < first - 0.5


def test_adapters_are_merged_into_a_plain_model(tmp_path: Path, conversations: Path, tiny_model: Path) -> None:
    finish(start("sft", tmp_path, PARAMS, *_files(conversations, tiny_model), "--set", "sft.method=lora"))
    metrics = json.loads((tmp_path / "metrics/sft.json").read_text())
    merged, base = load_model(tmp_path / "models/sft"), load_model(tiny_model)
    assert type(merged) is type(base)
    assert (metrics["threads"], metrics["compiled"]) == (1, 0)
    assert metrics["trained_parameters"] < 0.1 * sum(p.numel() for p in base.parameters())
    changed = [
        name
        for (name, a), (_, b) in zip(merged.named_parameters(), base.named_parameters(), strict=True)
        if not a.equal(b)
    ]
    assert changed
    assert all("proj" in name for name in changed), "adapters sit on the blocks' matrices"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_that_is_long_enough_is_calibrated_and_begins(
    tmp_path: Path, conversations: Path, tiny_model: Path, method: str
) -> None:
    # open are the fused modules of the whole model, and the attention of one with adapters
    values = ["sft.steps=100000", f"sft.method={method}", "machine.precision=fp32", "machine.micro_batch_parts=1"]
    settings = [word for value in values for word in ("--set", value)]
    process = start("sft", tmp_path, PARAMS, *_files(conversations, tiny_model), *settings)
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if "  plan:" in line:
            break
    process.kill()
    process.communicate()
    # a machine that is too busy says so
    assert re.search("calibrated in|as calibrated before|too little to calibrate with", told), told
    (file,) = (tmp_path / ".inkwell/work/sft").glob("*/choices.json")
    choices = json.loads(file.read_text())["choices"]
    assert choices["identity"]["trial"]
    assert (choices["precision"], choices["threads"], choices["processes"]) == ("fp32", 1, 1)
    assert "  plan:" in told


def test_conversations_longer_than_a_row_are_refused_in_words(
    tmp_path: Path, conversations: Path, tiny_model: Path
) -> None:
    process = start("sft", tmp_path, PARAMS, *_files(conversations, tiny_model), "--set", "sft.block=16")
    output = finish(process, status=2)
    assert "sft.block" in output
    assert len(output.strip().splitlines()) == 1
