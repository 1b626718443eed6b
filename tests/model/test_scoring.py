"""Bits per document: alike in any batch, whole across windows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from components.corpus.packed import TokenShards
from components.model.folders import load_model
from components.model.scoring import bits_per_character, document_bits


def test_bits_equal_a_document_alone(tiny_model: Path, token_folder: Path) -> None:
    model = load_model(tiny_model)
    shards = TokenShards(token_folder, "validation")
    documents = [shards.document(i) for i in range(12)]
    together = document_bits(model, documents, batch_tokens=300)
    for tokens, bits in zip(documents, together, strict=True):
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        alone = -logits[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum().item() / np.log(2)
        assert bits == pytest.approx(alone, rel=1e-5)


def test_a_document_longer_than_the_context_is_scored_once_a_token(tiny_model: Path) -> None:
    model = load_model(tiny_model)
    tokens = np.random.default_rng(0).integers(300, 500, 700)
    bits = document_bits(model, [tokens, tokens[:50]])
    # an untrained model gives every token about log2(vocabulary) bits
    a_token = bits[1] / 49
    assert bits[0] / 699 == pytest.approx(a_token, rel=0.05)


def test_bits_per_character_counts_an_end_mark_a_document() -> None:
    assert bits_per_character(np.array([10.0, 20.0]), ["春", "秋水明月"]) == pytest.approx(30 / 7)
