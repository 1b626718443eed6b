"""The comparison tells a good file from a bad one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from components.corpus.documents import VALIDATION, read_contents
from components.errors import InkwellError
from components.export.comparison import compare
from components.model.folders import load_model, load_tokenizer, save_model
from components.model.scoring import bits_per_character, document_bits


@pytest.fixture
def held_out(clean_folder: Path) -> list[str]:
    return read_contents(clean_folder / "documents.parquet", VALIDATION)[:4]


def test_figures_of_a_faithful_file(gguf_files: dict[str, Path], tiny_model: Path, held_out: list[str]) -> None:
    import numpy as np

    found = compare(tiny_model, gguf_files, held_out, ["春山", "明月照"], tokens=8)
    tokenizer = load_tokenizer(tiny_model)
    tokens = [np.array([*tokenizer.encode(text), 2]) for text in held_out]
    expected = bits_per_character(document_bits(load_model(tiny_model), tokens), held_out)
    assert found.torch_bits_per_character == pytest.approx(expected, rel=1e-5)
    assert found.positions == sum(len(ids) - 1 for ids in tokens)
    metrics = found.metrics()
    assert metrics["kl_f16"] < 1e-6 < metrics["kl_q8_0"] < metrics["kl_q4_k_m"] < 0.1
    assert metrics["bits_per_char_f16"] == pytest.approx(expected, rel=1e-4)
    assert metrics["top_token_f16"] > 0.9
    assert metrics["greedy_identical_f16"] == 1.0
    assert metrics["greedy_tokens_f16"] == 1.0


def test_a_file_of_other_weights_is_refused(
    gguf_files: dict[str, Path], tiny_model: Path, held_out: list[str], tmp_path: Path
) -> None:
    model = load_model(tiny_model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(40)
    save_model(model, tiny_model, tmp_path / "other", card="# Other\n")
    with pytest.raises(InkwellError, match="computes something else than the torch model"):
        compare(tmp_path / "other", {"f16": gguf_files["f16"]}, held_out, ["春山"], tokens=4)


def test_a_file_of_another_tokenizer_is_refused(
    gguf_files: dict[str, Path], tiny_model: Path, held_out: list[str], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Lowercase

    folder = shutil.copytree(tiny_model, tmp_path / "other")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.normalizer = Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(InkwellError, match="tokenizes differently"):
        compare(folder, {"f16": gguf_files["f16"]}, [*held_out, "Ein A b"], ["春山"], tokens=4)


def test_long_documents_and_prompts_keep_inside_the_context(
    gguf_files: dict[str, Path], tiny_model: Path, held_out: list[str]
) -> None:
    long = "\n".join(held_out * 20)
    found = compare(tiny_model, {"f16": gguf_files["f16"]}, [long], ["春山", long], tokens=4)
    assert found.positions == 255  # the model's context is 256
    assert found.prompts == 1
