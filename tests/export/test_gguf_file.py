"""GGUF files, judged by llama.cpp itself and by the gguf package's own reader."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file, save_file

from components.configuration import Sampling
from components.corpus.documents import TRAIN, VALIDATION, read_contents
from components.errors import InkwellError
from components.export.gguf_file import write_gguf
from components.export.llama_cpp import LlamaCpp
from components.export.piece_vocabulary import read_piece_vocabulary
from components.model.folders import END_ID, load_model, load_tokenizer, save_model
from components.model.sampling import complete
from components.tokenizer.twin import write_files
from tests.export.conftest import DESCRIPTION
from tests.tiny_models import sharp, tiny

ODD_TEXTS = [
    "two  spaces and   three\n\n\n 12 345,6 ",
    "  leading\r\n\ttab and return\r",
    "emoji 😀👩‍👩‍👧 and rare 𠮷龘 spelled in bytes",
    "user said to the assistant: système, ёж, system",
    "\n",
    "▁ a piece's own space",
    "e\u0301 decomposed, \u200b zero width, \x07 bell",
    "春山随故园，user\nassistant",
]


def divergence(expected: torch.Tensor, found: np.ndarray[Any, Any]) -> float:
    """Mean Kullback-Leibler divergence of logits [T, V], nats."""
    p = torch.log_softmax(expected.double(), -1)
    q = torch.log_softmax(torch.from_numpy(found.copy()).double(), -1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def compare_logits(folder: Path, path: Path, text: str) -> float:
    ids = load_tokenizer(folder).encode(text)
    with LlamaCpp(path, context=128) as runtime, torch.inference_mode():
        return divergence(load_model(folder)(torch.tensor([ids])).logits[0], runtime.logits(ids))


def make_model(folder: Path, tokenizer_folder: Path, architecture: str, rows: int = 0, **changes: Any) -> Path:
    """A model folder of the tiny tokenizer, its vocabulary `rows` larger than the tokenizer's."""
    shape = {"hidden_size": 256, "feed_forward_size": 512, "block": 128, "context": 128}
    vocabulary = len(load_tokenizer(tokenizer_folder)) + rows
    model = sharp(tiny(architecture, **{**shape, **changes}), vocabulary, deviation=0.08)
    save_model(model, tokenizer_folder, folder, card="# Test\n")
    return folder


def export(folder: Path, path: Path, format: str = "f16") -> Any:
    with LlamaCpp() as quantizer:
        return write_gguf(folder, path, format, DESCRIPTION, quantizer)


def test_llama_cpp_tokenizes_every_document_and_odd_text_as_the_model_does(
    gguf_files: dict[str, Path], tiny_model: Path, clean_folder: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    documents = clean_folder / "documents.parquet"
    texts = [*read_contents(documents, TRAIN), *read_contents(documents, VALIDATION), *ODD_TEXTS]
    assert len(texts) > 400
    with LlamaCpp(gguf_files["f16"], context=128) as runtime:
        for text in texts:
            ids = tokenizer.encode(text)
            assert runtime.tokenize(text) == ids
            assert runtime.detokenize(ids) == tokenizer.decode(ids, skip_special_tokens=True)


def test_markers_are_tokens_in_a_prompt_and_plain_text_in_a_document(
    gguf_files: dict[str, Path], tiny_model: Path
) -> None:
    tokenizer = load_tokenizer(tiny_model)
    chat = "<|im_start|>user\n春山<|im_end|>\n<|im_start|>assistant\n"
    with LlamaCpp(gguf_files["f16"], context=128) as runtime:
        assert runtime.tokenize(chat, special=True) == tokenizer.encode(chat)
        as_text = runtime.tokenize(chat)
        assert not set(as_text) & {tokenizer.convert_tokens_to_ids(m) for m in ("<|im_start|>", "<|im_end|>")}


@pytest.mark.parametrize(("format", "bound"), [("f16", 1e-6), ("q8_0", 1e-3), ("q4_k_m", 0.05)])
def test_each_format_computes_what_torch_computes(
    gguf_files: dict[str, Path], tiny_model: Path, format: str, bound: float
) -> None:
    assert compare_logits(tiny_model, gguf_files[format], "春山随故园，明月照人家。") < bound


ARCHITECTURES = [
    ("qwen3", {"key_value_heads": 2}),
    ("qwen3", {"heads": 8, "tie_embeddings": True}),
    ("llama", {"tie_embeddings": True}),
    ("llama", {"key_value_heads": 2}),
    ("mistral", {"key_value_heads": 2, "sliding_window": 128}),
    ("mixtral", {"key_value_heads": 2, "experts": 4, "experts_per_token": 2}),
    ("mixtral", {"experts": 8, "experts_per_token": 3, "tie_embeddings": True}),
    ("gpt2", {}),
    ("gpt2", {"tie_embeddings": True, "layers": 3}),
    ("mamba2", {"state_size": 64}),
    ("mamba2", {"tie_embeddings": True, "heads": 8, "state_size": 32}),
]


@pytest.mark.parametrize(("architecture", "changes"), ARCHITECTURES)
def test_every_architecture_computes_in_llama_cpp_what_it_computes_in_torch(
    tmp_path: Path, tokenizer_folder: Path, architecture: str, changes: dict[str, Any]
) -> None:
    folder = make_model(tmp_path / "model", tokenizer_folder, architecture, **changes)
    bounds = {"f16": 5e-6, "q8_0": 2e-3, "q4_k_m": 0.2}
    if architecture == "mixtral":
        bounds["q8_0"] = 0.1  # two experts of an untrained router are so close that rounding sends a token to the other
    for format, bound in bounds.items():
        choices = export(folder, tmp_path / f"{format}.gguf", format)
        assert compare_logits(folder, tmp_path / f"{format}.gguf", "春山随故园，明月照人家。") < bound, format
        assert all(choice.used == choice.wanted for choice in choices.values())
    assert {choice.used.name for choice in choices.values()} >= {"Q4_K", "Q6_K", "F32"}


@pytest.mark.parametrize("architecture", ["qwen3", "mixtral", "gpt2", "mamba2"])
def test_llama_cpp_writes_the_same_greedy_text(tmp_path: Path, tokenizer_folder: Path, architecture: str) -> None:
    """Token by token, from what llama.cpp keeps of the tokens before: a cache, or a recurrent state."""
    folder = make_model(tmp_path / "model", tokenizer_folder, architecture)
    export(folder, tmp_path / "model.gguf")
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    settings = Sampling(temperature=0, top_k=0, top_p=1, repetition_penalty=1, maximum_tokens=24)
    expected = complete(model, tokenizer, ["春山", "明月照故园"], settings, seed=1)
    with LlamaCpp(tmp_path / "model.gguf", context=128) as runtime:
        for prompt, written in zip(["春山", "明月照故园"], expected, strict=True):
            assert tuple(runtime.greedy(tokenizer.encode(prompt), 24)) == written.tokens


def test_a_model_with_more_rows_than_tokens_gets_unused_placeholders(tmp_path: Path, tokenizer_folder: Path) -> None:
    folder = make_model(tmp_path / "model", tokenizer_folder, "qwen3", rows=24)
    export(folder, tmp_path / "model.gguf")
    assert compare_logits(folder, tmp_path / "model.gguf", "春山") < 1e-4
    assert (
        read_piece_vocabulary(folder, len(load_tokenizer(tokenizer_folder)) + 24).types[-24:] == [TokenType.UNUSED] * 24
    )


def byte_level_tokenizer(folder: Path, texts: list[str]) -> Path:
    """A tokenizer of GPT-2's kind, as models that are trained further bring it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, special_tokens=marks, initial_alphabet=alphabet, show_progress=False)
    )
    folder.mkdir()
    write_files(tokenizer, dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), marks[0]), folder)
    return folder


def test_a_model_with_a_tokenizer_of_bytes_is_held_too(tmp_path: Path, clean_folder: Path) -> None:
    texts = read_contents(clean_folder / "documents.parquet", TRAIN)
    tokenizer_folder = byte_level_tokenizer(tmp_path / "tokenizer", texts)
    folder = make_model(tmp_path / "model", tokenizer_folder, "llama", rows=3)
    export(folder, tmp_path / "model.gguf")
    tokenizer = load_tokenizer(folder)
    with LlamaCpp(tmp_path / "model.gguf", context=128) as runtime:
        for text in [*texts[:50], *ODD_TEXTS]:
            expected = tokenizer.encode(text)
            assert runtime.tokenize(text) == expected
            assert runtime.detokenize(expected) == text
    assert compare_logits(folder, tmp_path / "model.gguf", texts[0][:40]) < 5e-6


def test_qwen2_which_is_only_trained_further_is_held_too(tmp_path: Path, tokenizer_folder: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=len(load_tokenizer(tokenizer_folder)),
        hidden_size=256,
        num_hidden_layers=2,
        intermediate_size=512,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.08)  # biases too: fresh ones are nothing
    save_model(model, tokenizer_folder, tmp_path / "model", card="# Test\n")
    export(tmp_path / "model", tmp_path / "model.gguf")
    assert compare_logits(tmp_path / "model", tmp_path / "model.gguf", "春山随故园，明月照人家。") < 5e-6


def test_metadata_and_token_types_are_what_llama_cpp_needs(gguf_files: dict[str, Path], tiny_model: Path) -> None:
    fields = GGUFReader(gguf_files["q8_0"]).fields
    tokenizer = load_tokenizer(tiny_model)
    turn_end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.eot_token_id"].contents() == turn_end
    assert fields["tokenizer.ggml.eos_token_id"].contents() == END_ID
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is False
    assert fields["tokenizer.ggml.add_bos_token"].contents() is True
    assert fields["tokenizer.chat_template"].contents() == (tiny_model / "chat_template.jinja").read_text(
        encoding="utf-8"
    )
    assert fields["general.sampling.temp"].contents() == pytest.approx(DESCRIPTION.sampling.temperature)
    types = fields["tokenizer.ggml.token_type"].contents()
    for text, kind in {
        "<unk>": TokenType.UNKNOWN,
        "<s>": TokenType.CONTROL,
        "<|im_end|>": TokenType.CONTROL,
        "\n": TokenType.USER_DEFINED,
        "assistant": TokenType.USER_DEFINED,
        "<0x0A>": TokenType.BYTE,
        "春": TokenType.NORMAL,
    }.items():
        assert types[tokenizer.convert_tokens_to_ids(text)] == kind, text


def test_quantized_tensors_hold_the_weights(gguf_files: dict[str, Path], tiny_model: Path) -> None:
    weights = load_file(tiny_model / "model.safetensors")["model.layers.0.mlp.down_proj.weight"].numpy()
    for format, error in (("q8_0", 0.01), ("q4_k_m", 0.1)):
        tensor = next(t for t in GGUFReader(gguf_files[format]).tensors if t.name == "blk.0.ffn_down.weight")
        restored = dequantize(tensor.data, tensor.tensor_type)
        assert np.linalg.norm(restored - weights) < error * np.linalg.norm(weights)
        if format == "q8_0":
            np.testing.assert_array_equal(tensor.data, quantize(weights, tensor.tensor_type))


def test_the_same_model_gives_the_same_bytes(gguf_files: dict[str, Path], tiny_model: Path, tmp_path: Path) -> None:
    export(tiny_model, tmp_path / "again.gguf", "q4_k_m")
    assert (tmp_path / "again.gguf").read_bytes() == gguf_files["q4_k_m"].read_bytes()


def test_rows_that_do_not_fit_fall_back_to_a_named_type_and_llama_cpp_opens_the_file(
    tmp_path: Path, tokenizer_folder: Path
) -> None:
    shape = {"hidden_size": 96, "feed_forward_size": 144, "heads": 3, "key_value_heads": 3, "tie_embeddings": True}
    folder = make_model(tmp_path / "model", tokenizer_folder, "qwen3", **shape)
    choices = export(folder, tmp_path / "model.gguf", "q4_k_m")
    named = {name: (choice.wanted.name, choice.used.name) for name, choice in choices.items()}
    assert named["token_embd.weight"] == ("Q6_K", "Q8_0")  # 96 is a multiple of 32
    assert named["blk.0.attn_q.weight"] == ("Q4_K", "Q5_0")
    assert named["blk.1.ffn_down.weight"] == ("Q6_K", "F16")  # 144 is not
    assert compare_logits(folder, tmp_path / "model.gguf", "春山随故园") < 0.1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"architectures": ["OPTForCausalLM"]}, "not OPTForCausalLM: leave export.formats empty"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}}, "rope_type = 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"vocab_size": 100}, "do not belong together"),
        ({"model_type": "unheard-of"}, "transformers cannot read it"),
    ],
)
def test_what_gguf_cannot_hold_is_refused_in_words(
    tmp_path: Path, tiny_model: Path, change: dict[str, Any], sentence: str
) -> None:
    refused(shutil.copytree(tiny_model, tmp_path / "model"), change, sentence)


@pytest.mark.parametrize(
    ("architecture", "change", "sentence"),
    [
        ("mistral", {"sliding_window": 64}, "sliding_window = 64 cannot be written to GGUF for MistralForCausalLM"),
        ("gpt2", {"activation_function": "relu"}, "activation_function = 'relu'"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = True"),
        ("mamba2", {"time_step_limit": [0.0, 0.5]}, "time_step_limit"),
        ("mamba2", {"use_conv_bias": False}, "use_conv_bias = False"),
        ("mixtral", {"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused_for_every_architecture(
    tmp_path: Path, tokenizer_folder: Path, architecture: str, change: dict[str, Any], sentence: str
) -> None:
    refused(make_model(tmp_path / "model", tokenizer_folder, architecture), change, sentence)


def refused(folder: Path, change: dict[str, Any], sentence: str) -> None:
    """Writing a folder with a changed configuration ends in a sentence, and leaves no file."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InkwellError, match=sentence):
        export(folder, folder.parent / "model.gguf")
    assert not (folder.parent / "model.gguf").exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("model.layers.0.mlp.up_proj.weight", float("nan"), "no numbers"),
        ("model.layers.0.mlp.up_proj.weight", 1e6, "beyond 65504"),
        ("model.value_embeddings.weight", 1.0, "no place for tensor model.value_embeddings.weight"),
    ],
)
def test_weights_that_gguf_cannot_hold_are_refused_by_name(
    tmp_path: Path, tiny_model: Path, name: str, value: float, sentence: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights[name] = torch.full((512, 256), value)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(InkwellError, match=sentence):
        export(folder, tmp_path / "model.gguf")
