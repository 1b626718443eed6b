"""Every architecture through every step: what docs/architectures.md promises of each is done here."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import components.align.__main__
import components.evaluate.__main__
import components.export.__main__
import components.pretrain.__main__
import components.sft.__main__
from components.configuration import Instruct, Sampling
from components.corpus.conversations import CONVERSATIONS_FILE, write_conversations
from components.corpus.packed import TokenShards
from components.instruct.from_corpus import conversations_of
from components.model.architectures import TABLE
from components.model.folders import load_model, load_tokenizer, save_model
from components.model.sampling import complete
from components.model.scoring import bits_per_character, document_bits
from components.step import main
from tests.tiny_corpus import clean_rows
from tests.tiny_models import sharp, tiny

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"key_value_heads": 2},
    "llama": {"key_value_heads": 2},
    "mistral": {"key_value_heads": 2, "sliding_window": 128},
    "mixtral": {"experts": 4},
    "gpt2": {"residual_dropout": 0.1},
    "mamba2": {"state_size": 32},
}
PARAMETERS = """
language: zh
tracking: {{enabled: false}}
ingest: {{sources: [{{name: tiny, kind: path, location: poems.json}}]}}
machine: {{compile: "off", threads: 1, calibrate: false}}
sampling: {{maximum_tokens: 12}}
pretrain: {pretrain}
sft: {{steps: 6, block: 128, micro_batch: 4, warmup_steps: 1, validation_every: 6, validation_conversations: 8, lora_rank: 4}}
align: {{pairs: 16, validation_pairs: 8, batch: 8, micro_batch: 8, block: 128, checkpoint_steps: 5}}
export: {{comparison_documents: 3, comparison_prompts: 2, comparison_tokens: 6}}
"""


def parameters(architecture: str) -> str:
    shape = {"architecture": architecture, "hidden_size": 256, "layers": 2, "heads": 4, "key_value_heads": 4}
    shape |= {"feed_forward_size": 256, "block": 128, "context": 128, "micro_batch": 4, "accumulation": 2, "steps": 24}
    shape |= {"warmup_steps": 2, "validation_every": 12, "validation_documents": 8, "sample_every": 12}
    return PARAMETERS.format(pretrain=json.dumps({**shape, **SHAPES[architecture]}))


@pytest.fixture(scope="module", params=list(TABLE))
def pretrained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, token_folder: Path, tokenizer_folder: Path
) -> Path:
    """A workspace with models/base of one architecture after some steps of `pretrain`."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "params.yaml").write_text(parameters(request.param), encoding="utf-8")
    arguments = ["--tokens", str(token_folder), "--tokenizer", str(tokenizer_folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(components.pretrain.__main__.STEP, arguments) == 0
    return folder


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("instruct")
    made = [one for row in clean_rows() for one in conversations_of(row, Instruct(who_wrote=0), "zh", "verse", None, 1)]
    write_conversations(folder / CONVERSATIONS_FILE, made)
    return folder


def metrics(folder: Path, step: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((folder / "metrics" / f"{step}.json").read_text(encoding="utf-8"))
    return found


def test_it_learns_is_scored_and_writes(pretrained: Path, token_folder: Path) -> None:
    rows = list(csv.DictReader((pretrained / "data/curves/pretrain.csv").open()))
    assert len(rows) == 24
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"]) - 0.3
    model, tokenizer = load_model(pretrained / "models/base"), load_tokenizer(pretrained / "models/base")
    shards = TokenShards(token_folder, "validation")
    documents = [shards.document(index) for index in range(len(shards))]
    bits = document_bits(model, documents)
    found = float(bits.sum()) / (shards.characters + len(shards))
    assert found == pytest.approx(metrics(pretrained, "pretrain")["val_bits_per_char"], rel=1e-4)
    texts = [tokenizer.decode(document[1:-1]) for document in documents]
    assert bits_per_character(bits, texts) == pytest.approx(found, rel=0.01)
    samples = [json.loads(line) for line in (pretrained / "data/samples/pretrain.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [12, 24]
    settings = Sampling(temperature=0.0, maximum_tokens=8)
    alone = complete(model, tokenizer, ["春山"], settings, seed=1)
    assert complete(model, tokenizer, ["春山", "明月照故园，"], settings, seed=1)[:1] == alone


@pytest.mark.parametrize("method", ["full", "lora"])
def test_it_is_fine_tuned_by_all_weights_and_by_adapters(
    pretrained: Path, instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((pretrained / "params.yaml").read_text())
    base = pretrained / "models/base"
    arguments = ["--conversations", str(instruct), "--base", str(base), "--set", f"sft.method={method}"]
    assert main(components.sft.__main__.STEP, arguments) == 0
    before, after = load_model(base).state_dict(), load_model(Path("models/sft")).state_dict()
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)


def test_it_is_aligned(pretrained: Path, instruct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((pretrained / "params.yaml").read_text())
    arguments = ["--instruct", str(instruct), "--sft", str(pretrained / "models/base")]
    assert main(components.align.__main__.STEP, arguments) == 0
    assert metrics(tmp_path, "align")["pairs"] == 16
    load_model(tmp_path / "models/aligned")


def test_it_is_exported_and_every_file_computes_what_torch_computes(
    pretrained: Path,
    raw_folder: Path,
    clean_folder: Path,
    token_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text((pretrained / "params.yaml").read_text())
    files = {"raw": raw_folder, "clean": clean_folder, "tokens": token_folder}
    files |= dict.fromkeys(("base", "sft", "aligned"), pretrained / "models/base")
    arguments = [part for name, path in files.items() for part in (f"--{name}", str(path))]
    assert main(components.export.__main__.STEP, arguments) == 0
    found = metrics(tmp_path, "export")
    assert found["kl_f16"] < 1e-5
    assert found["kl_q8_0"] < 1e-2
    assert found["kl_q4_k_m"] < 0.2
    assert found["parameters"] == metrics(pretrained, "pretrain")["parameters"]


@pytest.mark.parametrize("three", [("qwen3", "llama", "mistral"), ("mixtral", "gpt2", "mamba2")])
def test_they_are_evaluated_side_by_side(
    three: tuple[str, str, str],
    clean_folder: Path,
    tokenizer_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """lighteval asks models of three architectures at once."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(
        "language: zh\ntracking: {enabled: false}\nsampling: {maximum_tokens: 8}\n"
        "ingest: {sources: [{name: tiny, kind: path, location: unused}]}\n"
        "evaluate: {documents: 6, titles: 3, other_titles: 2}\n"
    )
    tokenizer = load_tokenizer(tokenizer_folder)
    arguments = ["--clean", str(clean_folder)]
    for name, architecture in zip(("base", "sft", "aligned"), three, strict=True):
        model = sharp(tiny(architecture, block=256, context=256), len(tokenizer), deviation=0.1)
        save_model(model, tokenizer_folder, tmp_path / architecture, card="# Tiny\n")
        arguments += [f"--{name}", str(tmp_path / architecture)]
    assert main(components.evaluate.__main__.STEP, arguments) == 0
    found = metrics(tmp_path, "evaluate")
    for name, architecture in zip(("base", "sft", "aligned"), three, strict=True):
        assert {f"{name}.{score}" for score in ("bits_per_char", "next_line", "ended")} <= set(found), architecture
        # an untrained model: far above what the text needs, and no nonsense
        assert 5 < found[f"{name}.bits_per_char"] < 60, architecture
