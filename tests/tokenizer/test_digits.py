"""Numbers are cut as the parameter says, alike in SentencePiece, transformers and llama.cpp."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
import sentencepiece
from tokenizers import Tokenizer as Twin

from components.configuration import Tokenizer, parse
from components.errors import InkwellError
from components.tokenizer.train import train_tokenizer
from components.vocabulary.digits import PAIRS, TRIPLES

_YEARS = [f"Year 2024, number {number}; в 2024 году, 2024年 and 2024." for number in range(300)]
_PARTS = [
    *"0123456789",
    "12",
    "1812",
    "2024",
    "год",
    "年",
    " ",
    "  ",
    "\n",
    "-",
    ".",
    "，",
    "９",
    "٣",
    "user",
    "é",
    "😀",
]


def processor(folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def triples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "tokenizer"
    figures = train_tokenizer(_YEARS, Tokenizer(vocabulary=1420, digits="triples"), 1, folder)
    assert figures["vocabulary"] == 1420
    assert figures["unused_tokens"] < 100, "pairs and triples are given, not learned"
    return folder


def fuzzed(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choice(_PARTS) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def test_digits_are_tokens_of_their_own_by_default_and_numbers_are_learned_where_asked(tmp_path: Path) -> None:
    train_tokenizer(_YEARS, Tokenizer(vocabulary=320), 1, tmp_path / "single")
    assert processor(tmp_path / "single").encode("2024", out_type=str) == list("2024")
    train_tokenizer(_YEARS, Tokenizer(vocabulary=320, digits="whole"), 1, tmp_path / "whole")
    assert processor(tmp_path / "whole").encode("2024", out_type=str) != list("2024")


def test_triples_cut_every_number_into_threes_from_the_left(triples: Path) -> None:
    ours = processor(triples)
    assert ours.encode("1234567", out_type=str) == ["123", "456", "7"]
    assert ours.encode("2024, 02, 29", out_type=str) == ["202", "4", ",", "▁", "02", ",", "▁", "29"]
    for text in fuzzed(2000, 1):
        expected = [part for run in re.findall("[0-9]+", text) for part in re.findall(".{1,3}", run)]
        pieces = [piece for piece in ours.encode(text, out_type=str) if not piece.startswith("<0x")]
        assert [piece for piece in pieces if re.search("[0-9]", piece)] == expected, text
        assert ours.decode(ours.encode(text)) == text


def test_every_run_of_one_to_three_digits_has_a_token(triples: Path) -> None:
    ours = processor(triples)
    for run in ("0", "9", *PAIRS, *TRIPLES):
        assert len(ours.encode(run)) == 1, run


def test_triples_are_the_same_in_transformers(triples: Path) -> None:
    ours, twin = processor(triples), Twin.from_file(str(triples / "tokenizer.json"))
    for text in fuzzed(3000, 2):
        ids = twin.encode(text, add_special_tokens=False).ids
        assert ids == ours.encode(text), text
        assert twin.decode(ids, skip_special_tokens=False) == text


def test_triples_are_the_same_in_llama_cpp(triples: Path, tmp_path: Path) -> None:
    import torch

    from components.configuration import Sampling
    from components.export.gguf_file import Description, write_gguf
    from components.export.llama_cpp import LlamaCpp
    from components.model.architectures import new_model
    from components.model.folders import load_tokenizer, save_model

    torch.manual_seed(0)
    size = len(load_tokenizer(triples))
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 32, "num_attention_heads": 1}
    model = new_model("qwen3", vocab_size=size, num_key_value_heads=1, head_dim=32, max_position_embeddings=64, **shape)
    save_model(model, triples, tmp_path / "model", card="# Tiny\n")
    path = tmp_path / "tiny.gguf"
    with LlamaCpp() as quantizer:
        write_gguf(tmp_path / "model", path, "f16", Description("tiny", "zh", None, Sampling()), quantizer)
    ours = processor(triples)
    with LlamaCpp(path, context=64) as runtime:
        for text in ("1234567", "20242024", *fuzzed(300, 3)):
            assert runtime.tokenize(text) == [1, *ours.encode(text)], text  # with the begin token


def test_a_vocabulary_without_room_for_the_triples_is_refused_by_name() -> None:
    values = {"ingest": {"sources": [{"name": "a", "kind": "path", "location": "a"}]}}
    with pytest.raises(InkwellError, match=r"'tokenizer\.digits' = 'triples' .* set vocabulary to at least 1,400"):
        parse({**values, "tokenizer": {"vocabulary": 1399, "digits": "triples"}})
    with pytest.raises(InkwellError, match=r"'tokenizer\.split_digits'; did you mean 'digits'\?"):
        parse({**values, "tokenizer": {"split_digits": True}})


def test_a_text_too_small_for_the_triples_is_told_the_vocabulary_that_it_allows(tmp_path: Path) -> None:
    with pytest.raises(InkwellError, match=r"tokenizer\.vocabulary = 9000 .* at most \d+") as caught:
        train_tokenizer(_YEARS, Tokenizer(vocabulary=9000, digits="triples"), 1, tmp_path / "none")
    largest = int(re.findall(r"at most (\d+)", str(caught.value))[0])
    assert largest > 1400
    train_tokenizer(_YEARS, Tokenizer(vocabulary=largest, digits="triples"), 1, tmp_path / "largest")
