"""The whole way of a model of other makers: its tokenizer, the packed corpus, training, GGUF, and in again."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import torch

from components.export.gguf_file import write_gguf
from components.export.llama_cpp import LlamaCpp
from components.model.folders import load_model, load_tokenizer
from components.model.initial import load_initial
from tests.byte_level import END, byte_level_folder
from tests.export.conftest import DESCRIPTION
from tests.processes import finish, start

PARAMS = """
ingest: {{sources: [{{name: tiny, kind: path, location: poems.json}}]}}
machine: {{compile: "off", threads: 1, calibrate: false}}
sampling: {{maximum_tokens: 10}}
tracking: {{enabled: false}}
pretrain:
  {{initial: '{initial}', extend_vocabulary: 150, optimizer: adamw, learning_rate: 5.0e-3, block: 64, micro_batch: 4,
   steps: 40, warmup_steps: 3, validation_every: 20, validation_documents: 10, sample_every: 40, hidden_size: 100, heads: 7}}
"""


def test_from_a_folder_to_gguf_and_on(tmp_path: Path, clean_folder: Path) -> None:
    theirs = byte_level_folder(tmp_path / "theirs", rule="smollm")
    # no model is 100 wide with 7 heads: the shape that is written beside them is not looked at
    params = PARAMS.format(initial=theirs)
    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    shutil.copytree(clean_folder, work / "data" / "clean")
    (work / "data" / "validated").mkdir()
    for step in ("tokenizer", "tokenize", "pretrain"):
        finish(start(step, work, params))
    base = work / "models" / "base"
    model, tokenizer = load_model(base), load_tokenizer(base)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (64, 2)
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 480 + 2 + 150
    assert model.config.bos_token_id == model.config.eos_token_id == tokenizer.convert_tokens_to_ids(END)
    curve = [float(row["loss"]) for row in csv.DictReader((work / "data/curves/pretrain.csv").open())]
    assert sum(curve[-5:]) < sum(curve[:5]) - 5
    figures = json.loads((work / "metrics/pretrain.json").read_text())
    assert figures["parameters"] == sum(p.numel() for p in model.parameters())
    card = (base / "README.md").read_text()
    assert "A llama decoder of 2 layers, 64 wide, trained further from theirs (sha256" in card
    assert "with 150 further tokens" in card
    for path in base.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name

    with LlamaCpp() as quantizer:
        write_gguf(base, tmp_path / "a.gguf", "f16", DESCRIPTION, quantizer)
    text = "春山随故园，明月照人家。"
    ids = tokenizer.encode(text)
    with LlamaCpp(tmp_path / "a.gguf", context=64) as runtime, torch.inference_mode():
        assert runtime.tokenize(text) == ids
        found = torch.from_numpy(runtime.logits(ids).copy())
        torch.testing.assert_close(found, model(torch.tensor([ids])).logits[0], atol=2e-2, rtol=1e-2)
    again, same = load_initial(str(tmp_path / "a.gguf"))
    assert same.encode(text) == ids[1:]  # the begin token is this project's habit
    with torch.inference_mode():
        torch.testing.assert_close(
            again(torch.tensor([ids])).logits, model(torch.tensor([ids])).logits, atol=2e-2, rtol=1e-2
        )

    (theirs / "generation_config.json").write_text("{}")
    told = finish(start("pretrain", work, params), 2)
    assert "theirs has changed since its tokenizer was taken over: run the tokenizer step again." in told
