"""The export step through its command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from components.configuration import Sampling
from components.export.__main__ import STEP
from components.export.card import Figures, model_card
from components.export.export import size_label
from components.model.folders import load_model, model_config
from components.step import content_hash, main
from tests.conftest import ARCHIVE

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, raw_folder: Path, clean_folder: Path, token_folder: Path, tiny_model: Path) -> Run:
    """Run the step into `tmp_path`; keyword arguments replace inputs, positional ones are passed on."""
    parameters = {
        "language": "zh",
        "ingest": {"sources": [{"name": "tiny", "kind": "path", "location": "nowhere"}]},
        "export": {"comparison_documents": 3, "comparison_prompts": 3, "comparison_tokens": 6},
        "tracking": {"enabled": False},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters))

    def start(*more: str, **replaced: Path) -> int:
        files = {
            "raw": raw_folder,
            "clean": clean_folder,
            "tokens": token_folder,
            "base": tiny_model,
            "sft": tiny_model,
        }
        files |= {"aligned": tiny_model, "export": tmp_path / "export", "metrics": tmp_path / "export.json"} | replaced
        options = [part for name, path in files.items() for part in (f"--{name}", str(path))]
        return main(STEP, ["--params", str(tmp_path / "params.yaml"), *options, *more])

    return start


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_file_is_written_compared_and_traced_to_the_archive(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    assert run() == 0
    folder = tmp_path / "export"
    manifest, metrics = read(folder / "manifest.json"), read(tmp_path / "export.json")

    name = manifest["name"]
    assert name == f"inkwell-zh-{size_label(manifest['parameters'])}"
    assert manifest["parameters"] == load_model(tiny_model).num_parameters()
    for format in ("f16", "q8_0", "q4_k_m"):
        assert (folder / f"{name}-{format}.gguf").stat().st_size == metrics[f"bytes_{format}"]
        assert {f"{key}_{format}" for key in ("kl", "bits_per_char", "greedy_identical")} <= set(metrics)
    assert metrics["kl_f16"] < 1e-6
    assert metrics["compared_prompts"] == 3
    assert {"bits_per_char_torch", "seconds", "peak_gib"} <= set(metrics)

    listed = {entry["file"]: entry for entry in manifest["files"]}
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(listed) == written - {"manifest.json"}
    for file, entry in listed.items():
        assert entry["sha256"] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
        assert entry["bytes"] == (folder / file).stat().st_size

    lineage = {node["what"]: node for node in manifest["lineage"]}
    assert lineage["models/aligned"]["sha256"] == content_hash(tiny_model)
    reached, pending = set(), ["models/aligned"]
    while pending:
        what = pending.pop()
        reached.add(what)
        pending += lineage[what]["made_of"]
    assert reached == set(lineage), "everything in the lineage is reached from the model"
    assert lineage["source/tiny"]["sha256"] == ARCHIVE
    assert lineage["source/tiny"]["license"] == "MIT"

    card = (folder / "huggingface" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---")[1])
    assert (front["language"], front["license"]) == ("zh", "mit")
    assert ARCHIVE in card
    assert "| q4_k_m |" in card
    assert "It knows its corpus and nothing else" in card


def test_the_card_of_a_model_that_was_trained_further_promises_no_ignorance(tiny_model: Path) -> None:
    told = "trained further from their-7b (sha256 `abc`)"
    figures = Figures(
        name="ours",
        language="zh",
        stage="aligned",
        architecture="Qwen3ForCausalLM",
        parameters=1000,
        config=model_config(tiny_model),
        train_documents=9,
        train_characters=99,
        validation_documents=1,
        sources=[],
        sampling=Sampling(),
        origin=told,
        tokenizer="BPE",
    )
    card = model_card(figures, None, {}, "0" * 64)
    assert told in card
    assert "nothing else" not in card
    assert "what is left of the model that it was trained further from" in card


def test_the_hugging_face_folder_opens_in_transformers_as_the_same_model(
    run: Run, tmp_path: Path, tiny_model: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert run("--set", "export.formats=[]") == 0
    folder = tmp_path / "export" / "huggingface"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "春山"}], add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.decode(ids) == "<|im_start|>user\n春山<|im_end|>\n<|im_start|>assistant\n"
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    with torch.inference_mode():
        given = torch.tensor([ids])
        torch.testing.assert_close(model(given).logits, load_model(tiny_model)(given).logits, rtol=0, atol=0)
    assert model.generation_config.temperature == pytest.approx(0.7)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in model.generation_config.eos_token_id
    assert not list((tmp_path / "export").glob("*.gguf"))


def test_a_second_run_writes_the_same_bytes(run: Run, tmp_path: Path) -> None:
    chosen = ["--set", "export.formats=[q4_k_m]", "--set", "export.model=base"]
    assert run(*chosen) == 0
    first = content_hash(tmp_path / "export")
    assert run(*chosen) == 0
    assert content_hash(tmp_path / "export") == first
    manifest = read(tmp_path / "export" / "manifest.json")
    assert manifest["model"] == "base"
    assert "models/sft" not in {node["what"] for node in manifest["lineage"]}
    assert "prompt" in manifest["example"], "a base model does not chat"
    assert str(tmp_path) not in (tmp_path / "export" / "manifest.json").read_text(encoding="utf-8")


def test_missing_sources_end_in_one_sentence_and_leave_the_last_export_alone(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "kept").touch()
    empty = tmp_path / "raw"
    empty.mkdir()
    assert run(raw=empty) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert told == [
        f"export: {empty / 'sources.json'} does not exist: run ingest again, the export's lineage begins there."
    ]
    assert [path.name for path in (tmp_path / "export").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("parameters", "label"), [(8_393_984, "8m"), (512_000, "512k"), (1_540_000_000, "2b"), (999, "999")]
)
def test_names_tell_the_size(parameters: int, label: str) -> None:
    assert size_label(parameters) == label
