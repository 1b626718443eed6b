"""GGUF files become models and tokenizers that compute and cut as llama.cpp does."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import sentencepiece
import torch

from components.corpus.documents import VALIDATION, read_contents
from components.errors import InkwellError
from components.export.llama_cpp import LlamaCpp
from components.gguf.model import read_gguf_model
from components.gguf.tokenizer import read_gguf_tokenizer
from components.model.folders import load_model, load_tokenizer
from components.model.initial import load_initial
from components.vocabulary import pre_tokenizers
from components.vocabulary.pieces import read_pieces
from tests.byte_level import END, TEXTS, add_vocabulary, byte_level_tokenizer, noise, vocabulary_gguf
from tests.export.test_gguf_file import ODD_TEXTS, export, make_model


@pytest.mark.parametrize("rule", pre_tokenizers.NAMES)
def test_every_rule_cuts_as_llama_cpp_does(tmp_path: Path, rule: str) -> None:
    tokenizer = byte_level_tokenizer(rule)
    path = vocabulary_gguf(
        tmp_path / "a.gguf", tokenizer.get_vocab_size(), partial(add_vocabulary, tokenizer=tokenizer, rule=rule)
    )
    source = read_gguf_tokenizer(path)
    assert source.end == END
    several = 0
    with LlamaCpp(path, context=64) as runtime:
        for text in [*TEXTS, *noise(150, seed=5), "", " "]:
            ids = source.backend.encode(text, add_special_tokens=False).ids
            assert ids == runtime.tokenize(text), text
            assert source.backend.decode(ids, skip_special_tokens=False) == text
            several += len(ids) < len(text.encode())
    assert several > 50, "hardly any merge applied"
    state = json.loads(source.backend.to_str())
    written = pre_tokenizers.name_of(state)
    assert written is not None
    assert json.loads(tokenizer.to_str())["pre_tokenizer"] == state["pre_tokenizer"]
    assert pre_tokenizers.by_name(written).__getstate__() == pre_tokenizers.by_name(rule).__getstate__()


def test_a_file_of_sentencepiece_gives_the_tokenizer_that_it_was_written_from(
    tmp_path: Path, tiny_model: Path, clean_folder: Path
) -> None:
    export(tiny_model, tmp_path / "a.gguf")
    source, tokenizer = read_gguf_tokenizer(tmp_path / "a.gguf"), load_tokenizer(tiny_model)
    assert source.backend.get_vocab(with_added_tokens=True) == tokenizer.get_vocab()
    assert (source.begin, source.end, source.unknown, source.padding) == ("<s>", "</s>", "<unk>", "<pad>")
    assert source.model is not None
    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=source.model)
    texts = [*read_contents(clean_folder / "documents.parquet", VALIDATION), *ODD_TEXTS]
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert source.backend.encode(text, add_special_tokens=False).ids == ids
        assert rebuilt.encode(text) == ids


@pytest.mark.parametrize("prefix", [True, False])
def test_pieces_of_other_makers_cut_as_in_sentencepiece_and_llama_cpp(tmp_path: Path, prefix: bool) -> None:
    """As Llama 2's: a space before every text, and no pieces for the marks of turns."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for text in TEXTS for line in text.splitlines()] * 3),
        model_writer=written,
        model_type="bpe",
        vocab_size=460,
        byte_fallback=True,
        add_dummy_prefix=prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    pieces = read_pieces(written.getvalue())

    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(list(pieces.texts))
        writer.add_token_scores(list(pieces.scores))
        writer.add_token_types(list(pieces.types))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_add_bos_token(False)
        writer.add_add_space_prefix(prefix)

    path = vocabulary_gguf(tmp_path / "a.gguf", 460, add)
    source = read_gguf_tokenizer(path)
    assert source.model is not None
    rebuilt = sentencepiece.SentencePieceProcessor(model_proto=source.model)
    with LlamaCpp(path, context=64) as runtime:
        for text in [*TEXTS, *noise(100, seed=6), "", " ", "  a"]:
            ids = source.backend.encode(text, add_special_tokens=False).ids
            assert ids == processor.encode(text) == rebuilt.encode(text) == runtime.tokenize(text), text
            assert source.backend.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("architecture", "changes"),
    [
        ("qwen3", {"key_value_heads": 2}),
        ("llama", {"key_value_heads": 2}),
        ("llama", {"tie_embeddings": True}),
        ("gpt2", {"tie_embeddings": True}),
    ],
)
def test_a_model_comes_back_as_it_was_written(
    tmp_path: Path, tokenizer_folder: Path, architecture: str, changes: dict[str, Any]
) -> None:
    folder = make_model(tmp_path / "model", tokenizer_folder, architecture, **changes)
    export(folder, tmp_path / "a.gguf")
    written, found = load_model(folder), read_gguf_model(tmp_path / "a.gguf")
    assert type(found) is type(written)
    expected = written.state_dict()
    assert expected.keys() == found.state_dict().keys()
    for name, values in found.state_dict().items():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, expected[name], atol=1e-3, rtol=1e-3, msg=name)  # the file holds 16 bits
    ids = torch.tensor([[1, 40, 41, 42, 43, 44]])
    with torch.inference_mode():
        torch.testing.assert_close(found(ids).logits, written(ids).logits, atol=2e-2, rtol=1e-2)
    found.save_pretrained(tmp_path / "again")
    config = (tmp_path / "again" / "config.json").read_text()
    assert str(tmp_path) not in config
    assert "quantization_config" not in config


def test_rows_that_no_token_uses_are_left_out_of_the_tokenizer(tmp_path: Path, tokenizer_folder: Path) -> None:
    export(make_model(tmp_path / "model", tokenizer_folder, "llama", rows=24), tmp_path / "a.gguf")
    model, tokenizer = load_initial(str(tmp_path / "a.gguf"))
    assert model.get_input_embeddings().weight.shape[0] == len(load_tokenizer(tokenizer_folder)) + 24
    assert len(tokenizer) == len(load_tokenizer(tokenizer_folder))


def tiny(path: Path, **more: str | int) -> Path:
    tokenizer = byte_level_tokenizer()
    size = tokenizer.get_vocab_size()
    return vocabulary_gguf(path, size, partial(add_vocabulary, tokenizer=tokenizer, rule="gpt-2"), **more)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"expert_count": 8}, "experts"),
        ({"rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_refused(
    tmp_path: Path, more: dict[str, str | int], words: str
) -> None:
    with pytest.raises(InkwellError, match=rf"a\.gguf has {words}.*Hugging Face folder"):
        read_gguf_model(tiny(tmp_path / "a.gguf", **more))


def test_tensors_that_the_class_has_no_place_for_are_refused(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        add_vocabulary(writer, byte_level_tokenizer(), "gpt-2")
        writer.add_tensor("blk.0.attn_q.bias", np.ones(32, dtype=np.float32))

    path = vocabulary_gguf(tmp_path / "a.gguf", byte_level_tokenizer().get_vocab_size(), add)
    with pytest.raises(InkwellError, match=r"holds [\d,]+ weights and transformers' LlamaForCausalLM has"):
        read_gguf_model(path)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (b"llama.attention.head_count\x04", r"does not say llama\.attention\.head_count"),
        (b"llama.embedding_length", r"does not say llama\.embedding_length"),
        (b"llama.block_count", "cannot be read|holds"),
        (b"llama.feed_forward_length", "cannot be read|holds"),
        (b"token_embd.weight", "has no embeddings"),
    ],
)
def test_a_file_that_lacks_an_entry_is_told_in_a_sentence(tmp_path: Path, entry: bytes, words: str) -> None:
    whole = tiny(tmp_path / "whole.gguf").read_bytes()
    assert whole.count(entry) == 1
    (tmp_path / "a.gguf").write_bytes(whole.replace(entry, b"x" + entry[1:]))
    with pytest.raises(InkwellError, match=rf"^a\.gguf ({words})"):
        read_gguf_model(tmp_path / "a.gguf")


def test_unknown_kinds_and_damage_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"not at all\n" * 10)
    with pytest.raises(InkwellError, match=r"no\.gguf is no GGUF file"):
        load_initial(str(tmp_path / "no.gguf"))
    whole = tiny(tmp_path / "a.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(InkwellError, match=r"half\.gguf"):
        load_initial(str(tmp_path / "half.gguf"))
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "rwkv7")
    writer.add_tokenizer_model("rwkv")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InkwellError, match=r"b\.gguf is a GGUF file of architecture rwkv7"):
        read_gguf_model(tmp_path / "b.gguf")
    with pytest.raises(InkwellError, match=r"tokenizer of kind 'rwkv'"):
        read_gguf_tokenizer(tmp_path / "b.gguf")
    tokenizer = byte_level_tokenizer()
    size = tokenizer.get_vocab_size()
    odd = vocabulary_gguf(tmp_path / "c.gguf", size, partial(add_vocabulary, tokenizer=tokenizer, rule="viking"))
    with pytest.raises(InkwellError, match=r"c\.gguf cuts text by the rule 'viking'"):
        read_gguf_tokenizer(odd)
